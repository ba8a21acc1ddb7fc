"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that each refer to one box in a COCO picture.

On disk, as lichengunc/refer hands it out, a folder per data set:

    refcoco/refs(unc).p       also refcoco+; refcocog has refs(umd).p, and all but refcoco+ a refs(google).p: a pickled list
                              of {ref_id, ann_id, image_id, split, sentences: [{sent_id, sent, raw, tokens}]}
    refcoco/instances.json    {"images": [{id, file_name, width, height}], "annotations": [{id, image_id, bbox: x, y,
                              width, height in pixels}]}
    images/mscoco/images/train2014/COCO_train2014_….jpg   beside the data sets' folders; also `train2014` there or in them

The pickles, most of them written by Python 2, are read by `unpickle`: nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deed.errors import DataError
from deed.metrics.boxes import Box, xywh_to_xyxy
from deed.utils import unpickle

from ..base import Example
from .coco import coco_image, list_entries
from .reading import Entry

# Who made the splits, the usual choice first: refcoco and refcoco+ are scored on unc's, refcocog on umd's.
SPLIT_BY = ("unc", "umd", "google")


def read(data: Path, split: str, split_by: str | None = None) -> Iterator[Example]:
    """The expressions of a split, one at a time: a thing's expressions follow each other, each an example of its own.

    The pickle is read whole, at once; of `instances.json` the boxes and pictures that the split needs are kept.

    Args:
        data: a data set's folder (`refcoco`).
        split: `train`, `val` (or `validation`); `testA` (people), `testB` (other things) of refcoco and refcoco+;
            `test` of refcocog.
        split_by: which `refs(…).p`; None: the first there is of `SPLIT_BY`.

    Yields:
        Example: `question` is the expression, `answers` are empty, `id` is the expression's (`sent_id`), `kind` and
            `extra["task"]` are `"refer"`, `extra["box"]` is `x0, y0, x1, y1` in pixels, `extra["size"]` the picture's
            width and height, `extra["ref_id"]` names the thing.

    Raises:
        DataError: no such folder, file or split, a pickle that is broken or refers to anything but data (at once); a
            broken entry, a box or picture that is missing (when it is reached).
    """
    data = Path(data)
    path = _refs_file(data, split_by)
    refs = [Entry(ref, f"{path}, ref {i}") for i, ref in enumerate(_load(path))]
    wanted = "val" if split == "validation" else split
    splits = [ref.text("split") for ref in refs]
    chosen = [ref for ref, name in zip(refs, splits, strict=True) if name == wanted]
    if not chosen:
        raise DataError(f"{path}: no split {split!r}; found {', '.join(sorted(set(splits)))}")
    instances = data / "instances.json"
    if not instances.is_file():
        raise DataError(f"{instances}: no such file; the boxes of {path.name} are read from it")
    return _examples(data, chosen, instances)


def _refs_file(data: Path, split_by: str | None) -> Path:
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; looked for refs({SPLIT_BY[0]}).p in it")
    for name in SPLIT_BY if split_by is None else (split_by,):
        path = data / f"refs({name}).p"
        if path.is_file():
            return path
    found = ", ".join(sorted(path.name for path in data.glob("refs(*).p"))) or "none"
    raise DataError(f"{data}: no refs({split_by or SPLIT_BY[0]}).p in this folder; found {found}")


def _load(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            refs = unpickle.load(file, encoding="latin1")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle can fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a pickled list of refs: {reason}") from None
    if not isinstance(refs, list) or not refs:
        raise DataError(f"{path}: expected a list of one ref or more, got {type(refs).__name__}")
    return refs


class _Picture(NamedTuple):
    name: str
    size: tuple[int, int]


def _examples(data: Path, refs: list[Entry], instances: Path) -> Iterator[Example]:
    boxes, pictures = _instances(instances, refs)
    for ref in refs:
        ref_id, ann_id, image_id = ref.id("ref_id"), ref.id("ann_id"), ref.id("image_id")
        ref.where += f" (ref_id {ref_id})"
        if ann_id not in boxes:
            raise ref.wrong("ann_id", f"an annotation in {instances.name}")
        if image_id not in pictures:
            raise ref.wrong("image_id", f"an image in {instances.name}")
        picture = pictures[image_id]
        image = coco_image([data, data.parent], "train2014", picture.name, ref.where, "image_id")
        if not ref.array("sentences"):
            raise ref.wrong("sentences", "one expression or more")
        for sentence in ref.entries("sentences"):
            extra = {"task": "refer", "box": boxes[ann_id], "size": picture.size, "ref_id": ref_id}
            sent_id = sentence.id("sent_id")
            yield Example(sentence.text("sent"), [], image=image, id=sent_id, kind="refer", extra=extra)


def _instances(path: Path, refs: list[Entry]) -> tuple[dict[str, Box], dict[str, _Picture]]:
    """Boxes by annotation and pictures by image, of those that the refs name."""
    ann_ids, image_ids = {ref.id("ann_id") for ref in refs}, {ref.id("image_id") for ref in refs}
    boxes, pictures = {}, {}
    for entry in list_entries(path, "annotations"):
        if (ann_id := entry.id("id")) in ann_ids:
            entry.where += f" (annotation {ann_id})"
            bbox = entry.numbers("bbox", 4)
            if min(bbox[2:]) < 0:
                raise entry.wrong("bbox", "x, y, width, height, sizes not negative")
            boxes[ann_id] = xywh_to_xyxy(bbox)
    for entry in list_entries(path, "images"):
        if (image_id := entry.id("id")) in image_ids:
            size = entry.integer("width"), entry.integer("height")
            pictures[image_id] = _Picture(entry.text("file_name"), size)
    return boxes, pictures
