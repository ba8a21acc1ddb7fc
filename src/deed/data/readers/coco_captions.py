"""COCO captions: five captions or more of each picture, in COCO's own splits or in Karpathy's.

On disk, in one folder:

    dataset_coco.json                      Karpathy's splits, which captioning is scored on: {"images": [{filepath:
                                           "val2014", filename, cocoid, split: train | restval | val | test,
                                           sentences: [{raw, tokens, sentid}]}]}
    captions_{train,val}2014.json          COCO's (also 2017, also below `annotations`): {"images": [{id, file_name,
                                           width, height}], "annotations": [{id, image_id, caption}]}
    train2014/COCO_train2014_….jpg         and val2014, also below `images`

Where `dataset_coco.json` is there, `train`, `restval`, `val` and `test` are Karpathy's, `train2014` and `val2014` always
COCO's. Captioning models are trained on `train` and `restval`, COCO's `val` less the 10,000 of `val` and `test`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deed.errors import DataError

from ..base import Example
from .coco import coco_image, list_entries
from .reading import find_split

KARPATHY = "dataset_coco.json"
KARPATHY_SPLITS = ("train", "restval", "val", "test")
YEARS = ("2014", "2017")
FOLDERS = ("annotations/", "")
FILES = tuple(f"{folder}captions_{{split}}{year}.json" for folder in FOLDERS for year in YEARS)
# With the year in the split's name.
EXACT = tuple(f"{folder}captions_{{split}}.json" for folder in FOLDERS)


def read(data: Path, split: str) -> Iterator[Example]:
    """The pictures of a split, in the file's order, one at a time, each with all its captions.

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`); of Karpathy's also `restval` and `test`; `train2014`, `val2014`.

    Yields:
        Example: `question` is empty, `answers` are the captions as written (without outer white space), `id` is the image's,
            `kind` and `extra["task"]` are `"caption"`.

    Raises:
        DataError: no such folder or split (at once); a broken entry, a picture without captions or whose file is
            missing (when it is reached).
    """
    data = Path(data)
    if split[-4:] in YEARS:
        _, path = find_split(data, split, EXACT)
        return _official(data, path)
    karpathy = data / KARPATHY
    if not karpathy.is_file():
        _, path = find_split(data, split, FILES)
        return _official(data, path)
    name = "val" if split == "validation" else split
    if name not in KARPATHY_SPLITS:
        raise DataError(f"{karpathy}: no split {split!r}; it has {', '.join(KARPATHY_SPLITS)}")
    return _karpathy(data, karpathy, name)


def _karpathy(data: Path, path: Path, split: str) -> Iterator[Example]:
    for entry in list_entries(path, "images"):
        if entry.text("split") != split:
            continue
        image_id = entry.id("cocoid")
        entry.where += f" (image {image_id})"
        captions = [sentence.text("raw").strip() for sentence in entry.entries("sentences")]
        if not captions:
            raise entry.wrong("sentences", "one caption or more")
        folder, name = entry.text("filepath"), entry.text("filename")
        yield _example(captions, coco_image([data], folder, name, entry.where, "filename"), image_id)


def _official(data: Path, path: Path) -> Iterator[Example]:
    captions: dict[str, list[str]] = {}
    for entry in list_entries(path, "annotations"):
        captions.setdefault(entry.id("image_id"), []).append(entry.text("caption").strip())
    folder = path.stem.removeprefix("captions_")
    for entry in list_entries(path, "images"):
        image_id = entry.id("id")
        entry.where += f" (image {image_id})"
        if image_id not in captions:
            raise entry.wrong("id", "an image that one annotation or more is of")
        image = coco_image([data], folder, entry.text("file_name"), entry.where, "file_name")
        yield _example(captions[image_id], image, image_id)


def _example(captions: list[str], image: Path, image_id: str) -> Example:
    return Example("", captions, image=image, id=image_id, kind="caption", extra={"task": "caption"})
