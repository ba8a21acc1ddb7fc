"""ST-VQA, task 3 (open dictionary): questions about photographs whose answers are words in them.

On disk, as rrc.cvc.uab.es (challenge 11) hands it out, in one folder:

    train_task_3.json, test_task_3.json   {"data": [{dataset, file_name, file_path, question, question_id,
                                          answers (not in test)}]}
    {dataset}/{file_name} or {file_path}  the images

No OCR comes with it: `words` are empty, for `deed.ocr` to fill. There is no official validation split either: it is a
tenth of train, all questions of an image together, fixed by a hash of `{dataset}/{file_name}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..base import Example
from .reading import bucket, data_entries, existing_image, find_split

FILES = ("{split}_task_3.json",)
HELD_OUT = 100  # of 1000 hash buckets


def held_out(image: str) -> bool:
    """Whether the image `{dataset}/{file_name}` of the train file belongs to the validation split."""
    return bucket(image) < HELD_OUT


def read(data: Path, split: str) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time; `words` are empty.

    Args:
        data: folder with the files above.
        split: `train` (nine tenths of the train file), `validation` (or `val`; the rest of it), `test`.

    Yields:
        Example: `kind` is the data set that the image is from (`coco-text`, `vizwiz`, …).

    Raises:
        DataError: no such folder or split (at once); a broken entry or JSON, or a missing image (when it is reached).
    """
    data = Path(data)
    name, path = find_split(data, split, FILES, derived={"validation": "train"})
    return _examples(data, path, name, split)


def _examples(data: Path, path: Path, name: str, split: str) -> Iterator[Example]:
    for entry in data_entries(path):
        question_id = entry.id("question_id")
        entry.where += f" (question {question_id})"
        source, file = entry.text("dataset"), entry.text("file_name")
        if name == "train" and held_out(f"{source}/{file}") != (split != "train"):
            continue
        candidates = [data / source / file, data / entry.text("file_path")]
        yield Example(
            question=entry.text("question"),
            answers=entry.answers(is_test=name == "test"),
            image=existing_image(candidates, entry.where, "file_path"),
            id=question_id,
            kind=source,
        )
