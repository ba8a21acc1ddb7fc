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
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import DataError

from ..base import Example
from .coco import coco_image
from .locating import find_split
from .reading import Entry, Examples, Id, list_entries, wrong

KARPATHY = "dataset_coco.json"
KARPATHY_SPLITS = ("train", "restval", "val", "test")
YEARS = ("2014", "2017")
FOLDERS = ("annotations/", "")
FILES = tuple(f"{folder}captions_{{split}}{year}.json" for folder in FOLDERS for year in YEARS)
# With the year in the split's name.
EXACT = tuple(f"{folder}captions_{{split}}.json" for folder in FOLDERS)


class Sentence(Entry):
    """A caption of Karpathy's."""

    raw: str


class Picture(Entry):
    """What is read of one of Karpathy's pictures."""

    named = "image", "cocoid"

    split: str
    cocoid: Id
    filepath: str
    filename: str
    sentences: list[Sentence]


class Annotation(Entry):
    """What is read of a caption in COCO's own files."""

    image_id: Id
    caption: str


class Image(Entry):
    """What is read of a picture in COCO's own files."""

    named = "image", "id"

    id: Id
    file_name: str


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The pictures of a split, in the file's order, one at a time, each with all its captions.

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`); of Karpathy's also `restval` and `test`; `train2014`, `val2014`.
        skip_missing: see `Examples`.

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
        return _official(data, path, skip_missing)
    karpathy = data / KARPATHY
    if not karpathy.is_file():
        _, path = find_split(data, split, FILES)
        return _official(data, path, skip_missing)
    name = "val" if split == "validation" else split
    if name not in KARPATHY_SPLITS:
        raise DataError(f"{karpathy}: no split {split!r}; it has {', '.join(KARPATHY_SPLITS)}")
    return Examples(list_entries(karpathy, "images", Picture), partial(_parse_karpathy, data, name), skip_missing)


def _parse_karpathy(data: Path, split: str, row: Picture, where: str) -> Iterator[Example]:
    if row.split != split:
        return
    if not row.sentences:
        raise wrong(where, "sentences", "one caption or more", row.sentences)
    captions = [sentence.raw.strip() for sentence in row.sentences]
    image = coco_image([data], row.filepath, row.filename, where, "filename")
    yield _example(captions, image, row.cocoid)


def _official(data: Path, path: Path, skip_missing: bool) -> Examples:
    folder = path.stem.removeprefix("captions_")
    return Examples(_with_captions(path), partial(_parse_official, data, folder), skip_missing)


def _with_captions(path: Path) -> Iterator[tuple[str, Any]]:
    captions: dict[str, list[str]] = {}
    for _, annotation in list_entries(path, "annotations", Annotation):
        captions.setdefault(str(annotation.image_id), []).append(annotation.caption.strip())
    for where, row in list_entries(path, "images", Image):
        yield where, (row, captions)


def _parse_official(data: Path, folder: str, entry: Any, where: str) -> Iterator[Example]:
    row, captions = entry
    if str(row.id) not in captions:
        raise wrong(where, "id", "an image that one annotation or more is of", row.id)
    image = coco_image([data], folder, row.file_name, where, "file_name")
    yield _example(captions[str(row.id)], image, row.id)


def _example(captions: list[str], image: Path, image_id: str | int) -> Example:
    return Example("", captions, image=image, id=str(image_id), kind="caption", extra={"task": "caption"})
