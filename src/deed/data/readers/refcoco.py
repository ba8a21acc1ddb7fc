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
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.metrics.boxes import xywh_to_xyxy
from deed.utils import unpickle

from ..base import Example
from .coco import coco_image
from .reading import Box, Entry, Examples, Id, Whole, list_entries, read_entry, wrong

# Who made the splits, the usual choice first: refcoco and refcoco+ are scored on unc's, refcocog on umd's.
SPLIT_BY = ("unc", "umd", "google")


class Sentence(Entry):
    """An expression."""

    sent_id: Id
    sent: str


class Ref(Entry):
    """What is read of a thing that is referred to."""

    named = "ref_id", "ref_id"

    split: str
    ref_id: Id
    ann_id: Id
    image_id: Id
    sentences: list[Sentence]


class Annotation(Entry):
    """What is read of an annotation."""

    named = "annotation", "id"

    id: Id
    bbox: Box


class Picture(Entry):
    """What is read of a picture."""

    id: Id
    file_name: str
    width: Whole
    height: Whole


def read(data: Path, split: str, skip_missing: bool = False, split_by: str | None = None) -> Iterator[Example]:
    """The expressions of a split, one at a time: a thing's expressions follow each other, each an example of its own.

    The pickle is read whole, at once; of `instances.json` the boxes and pictures that the split needs are kept.

    Args:
        data: a data set's folder (`refcoco`).
        split: `train`, `val` (or `validation`); `testA` (people), `testB` (other things) of refcoco and refcoco+;
            `test` of refcocog.
        skip_missing: see `Examples`.
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
    refs = [read_entry(value, Ref, f"{path}, ref {i}") for i, value in enumerate(_load(path))]
    wanted = "val" if split == "validation" else split
    chosen = [(where, ref) for where, ref in refs if ref.split == wanted]
    if not chosen:
        raise DataError(f"{path}: no split {split!r}; found {', '.join(sorted({ref.split for _, ref in refs}))}")
    instances = data / "instances.json"
    if not instances.is_file():
        raise DataError(f"{instances}: no such file; the boxes of {path.name} are read from it")
    return Examples(_with_boxes(chosen, instances), partial(_parse, data, instances.name), skip_missing)


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


def _with_boxes(refs: list[tuple[str, Ref]], instances: Path) -> Iterator[tuple[str, Any]]:
    """The refs with boxes by annotation and pictures by image, of those that they name."""
    ann_ids, image_ids = {str(ref.ann_id) for _, ref in refs}, {str(ref.image_id) for _, ref in refs}
    boxes, pictures = {}, {}
    for where, annotation in list_entries(instances, "annotations", Annotation):
        if (ann_id := str(annotation.id)) in ann_ids:
            if min(annotation.bbox[2:]) < 0:
                raise wrong(where, "bbox", "x, y, width, height, sizes not negative", annotation.bbox)
            boxes[ann_id] = xywh_to_xyxy(annotation.bbox)
    for _, picture in list_entries(instances, "images", Picture):
        if (image_id := str(picture.id)) in image_ids:
            pictures[image_id] = picture
    for where, ref in refs:
        yield where, (ref, boxes.get(str(ref.ann_id)), pictures.get(str(ref.image_id)))


def _parse(data: Path, instances: str, entry: Any, where: str) -> Iterator[Example]:
    ref, box, picture = entry
    if box is None:
        raise wrong(where, "ann_id", f"an annotation in {instances}", ref.ann_id)
    if picture is None:
        raise wrong(where, "image_id", f"an image in {instances}", ref.image_id)
    if not ref.sentences:
        raise wrong(where, "sentences", "one expression or more", ref.sentences)
    image = coco_image([data, data.parent], "train2014", picture.file_name, where, "image_id")
    size = picture.width, picture.height
    for sentence in ref.sentences:
        extra = {"task": "refer", "box": box, "size": size, "ref_id": str(ref.ref_id)}
        yield Example(sentence.sent, [], image=image, id=str(sentence.sent_id), kind="refer", extra=extra)
