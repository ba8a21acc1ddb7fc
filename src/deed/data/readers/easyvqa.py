"""Easy-VQA: questions about 64 x 64 pictures of one shape in one colour ("what color is the shape?" -> "blue").

The data come inside the PyPI package `easy-vqa` (Victor Zhou, MIT): 38,575 questions on 4,000 images to train on, 9,673
on 1,000 to test on. Validation and calibration are split off the train part, whole images, by a hash of the image id.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import DataError

from ..base import Example
from .locating import existing_image
from .reading import Examples, bucket

# Upper ends of the hash buckets (of 1000) of the train part: 92 % train, 3 % validation, 5 % calibration.
TRAIN_PART = {"train": 920, "validation": 950, "calibration": 1000}
SHAPES = {"circle", "rectangle", "triangle"}


def split_of(image_id: int) -> str:
    """Where an image of the package's train part belongs: `"train"`, `"validation"` or `"calibration"`."""
    return next(name for name, end in TRAIN_PART.items() if bucket(str(image_id)) < end)


def read(data: Path | None, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the package's order, one at a time; no words, and ids `train-…` or `test-…`.

    Args:
        data: None: the package brings its data.
        split: `train`, `validation` (or `val`), `calibration`, `test`.
        skip_missing: see `Examples`.

    Yields:
        Example: `kind` is `"yes/no"`, `"shape"` or `"color"`.

    Raises:
        DataError: the package is not installed, a folder is given, or no such split (at once); a missing image (when
            it is reached).
    """
    if data is not None:
        raise DataError(f"{data}: Easy-VQA's data come with the package easy-vqa; give no folder")
    split = "validation" if split == "val" else split
    if split != "test" and split not in TRAIN_PART:
        raise DataError(f"Easy-VQA: no split {split!r}; found {', '.join(TRAIN_PART)}, test")
    try:
        import easy_vqa
    except ImportError:
        raise DataError("Easy-VQA comes with easy-vqa, which is not installed: pip install easy-vqa") from None
    if split == "test":
        questions, images = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    else:
        questions, images = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    part = "test" if split == "test" else "train"
    entries = ((f"Easy-VQA {part}, question {i}", (i, *row)) for i, row in enumerate(zip(*questions, strict=True)))
    return Examples(entries, partial(_parse, split, images), skip_missing)


def _parse(split: str, images: dict[int, str], value: Any, where: str) -> Iterator[Example]:
    i, question, answer, image_id = value
    if split != "test" and split_of(image_id) != split:
        return
    image = existing_image([Path(images.get(image_id, f"{image_id}.png"))], where, "image")
    kind = "yes/no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "color"
    yield Example(question, [answer], image=image, id=f"{'test' if split == 'test' else 'train'}-{i}", kind=kind)
