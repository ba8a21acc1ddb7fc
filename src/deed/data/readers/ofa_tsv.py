"""OFA's own data files: tab-separated, a line per example, the picture in it as url-safe base64.

The columns as released, and which of them are used (`SELECTED_COLS`, the run scripts' `selected_cols`):

    vqa          question id, image id, question, answers "0.6|!+no&&0.3|!+yes", objects "dog&&ball", image
    refer        id, image id, expression, box "x0,y0,x1,y1" in pixels, image
    caption      id, image id, caption, objects, image; in files to evaluate on, all captions: "one&&another"
    snli_ve      id, image id, image, hypothesis, caption, label

Other files need other columns: their numbers are given in the order of `FIELDS`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import DataError, MissingPictureError
from deed.metrics.boxes import Box
from deed.utils.images import load_image

from ..base import Example
from .lines import Rows
from .snli_ve import ANSWERS

# What is read for each task; the objects of vqa may be left out.
FIELDS = {
    "vqa": ("uniq_id", "image", "question", "answers", "objects"),
    "refer": ("uniq_id", "image", "text", "region_coord"),
    "caption": ("uniq_id", "image", "caption"),
    "snli_ve": ("uniq_id", "image", "hypothesis", "caption", "label"),
}
VALIDATION = ("val", "validation", "dev")  # one split's names
# `caption` to train on; to evaluate, "1,4,2": the image's id.
SELECTED_COLS = {"vqa": "0,5,2,3,4", "refer": "0,4,2,3", "caption": "0,4,2", "snli_ve": "0,2,3,4,5"}


def read(
    path: Path,
    task: str,
    selected_cols: str | Sequence[int] | None = None,
    images: bool = True,
    skip_missing: bool = False,
) -> Iterator[Example]:
    """The examples of `rows`, in the file's order, one at a time.

    Args:
        path, task, selected_cols, images: as for `rows`.
        skip_missing: see `Examples`; a picture is missing where its column is empty.

    Raises:
        DataError: as `rows`.
    """
    return rows(path, task, selected_cols, images).examples(skip_missing)


def read_split(task: str, data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """`read` of a file, or of the one file in a folder that is a split's.

    Args:
        task: a key of `FIELDS`.
        data: the file or the folder.
        split: `val` (or `validation`, or `dev`) is `refcoco_val.tsv`.
        skip_missing: as for `read`.

    Raises:
        DataError: no such file, or several; see also `rows`.
    """
    data = Path(data)
    if not data.is_dir():
        return read(data, task, skip_missing=skip_missing)
    found, names = sorted(data.glob("*.tsv")), VALIDATION if split in VALIDATION else (split,)
    ours = [path for path in found if path.stem.rpartition("_")[2] in names]
    if len(ours) != 1:
        shown = ", ".join(path.name for path in (ours or found)) or "no .tsv"
        raise DataError(f"{data}: expected one file *_{split}.tsv, found {shown}; give the file itself")
    return read(ours[0], task, skip_missing=skip_missing)


def rows(path: Path, task: str, selected_cols: str | Sequence[int] | None = None, images: bool = True) -> Rows:
    """The examples of a file, each read and its picture decoded when it is asked for.

    Args:
        path: the `.tsv`.
        task: a key of `FIELDS`.
        selected_cols: which columns hold the task's fields, from 0: `"0,5,2,3,4"` or numbers; None: `SELECTED_COLS`.
        images: False leaves the pictures undecoded and `image` None, which is far faster where only texts are needed.

    Returns:
        A sequence of `Example`s: `id` from the first field; `image` an RGB `PIL.Image.Image`; `extra["task"]`; and

        - vqa: `answers` the surest first, `extra["confidences"]` from each answer to its confidence,
          `extra["objects"]` the objects (none where their column is not read);
        - refer: `question` the expression, no answers, `extra["box"]` `x0, y0, x1, y1` in pixels;
        - caption: no question, `answers` the captions;
        - snli_ve: as `snli_ve.rows`.

    Raises:
        DataError: no such file or task, columns that do not fit it (at once); a broken line (when it is reached).
    """
    if task not in FIELDS:
        raise DataError(f"task must be one of {', '.join(FIELDS)}, got {task!r}")
    columns = _columns(task, SELECTED_COLS[task] if selected_cols is None else selected_cols)
    return Rows(path, partial(_parse, task, columns, images))


def _columns(task: str, selected: str | Sequence[int]) -> dict[str, int]:
    """The column of each field."""
    try:
        numbers = [int(x) for x in (selected.split(",") if isinstance(selected, str) else selected)]
    except (TypeError, ValueError):
        numbers = []
    fields = FIELDS[task]
    fewest = len(fields) - (task == "vqa")
    if not fewest <= len(numbers) <= len(fields) or min(numbers) < 0:
        raise DataError(
            f"selected_cols of {task} must be the columns of {', '.join(fields)}, from 0, got {selected!r}"
        )
    return dict(zip(fields, numbers, strict=False))


class _Row:
    """A line's fields; errors name line, field and column."""

    def __init__(self, line: bytes, columns: dict[str, int], where: str) -> None:
        self._parts = line.split(b"\t")
        self._columns = columns
        self.where = where

    def wrong(self, field: str, expected: str, got: str) -> DataError:
        return DataError(f"{self.where}: {field!r} (column {self._columns[field]}): expected {expected}, got {got}")

    def raw(self, field: str) -> bytes:
        column = self._columns[field]
        if column >= len(self._parts):
            raise self.wrong(field, f"{column + 1} columns or more", str(len(self._parts)))
        return self._parts[column]

    def text(self, field: str) -> str:
        try:
            return self.raw(field).decode()
        except UnicodeDecodeError as error:
            raise self.wrong(field, "text in UTF-8", str(error)) from None

    def texts(self, field: str) -> list[str]:
        """What is joined by `&&`."""
        text = self.text(field)
        return text.split("&&") if text else []

    def id(self) -> str:
        text = self.text("uniq_id")
        if not text:
            raise self.wrong("uniq_id", "an id", "nothing")
        self.where += f" ({text if len(text) <= 40 else text[:37] + '…'})"
        return text

    def image(self) -> Any:
        raw = self.raw("image")
        if not raw:
            raise MissingPictureError(str(self.wrong("image", "a picture in url-safe base64", "nothing")))
        try:
            data = base64.b64decode(raw.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
            return load_image(data)
        except ValueError as error:  # of base64, or a DataError of the picture
            raise self.wrong("image", "a picture in url-safe base64", f"{len(raw)} bytes: {error}") from None

    def box(self, field: str) -> Box:
        text = self.text(field)
        try:
            x0, y0, x1, y1 = (float(x) for x in text.split(","))
        except ValueError:
            raise self.wrong(field, "x0,y0,x1,y1", _show(text)) from None
        if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 > x1 or y0 > y1:
            raise self.wrong(field, "x0,y0,x1,y1 with x0 <= x1 and y0 <= y1", _show(text))
        return x0, y0, x1, y1

    def confidences(self, field: str) -> dict[str, float]:
        """Answers with their confidences, the surest first."""
        found = {}
        for part in self.texts(field):
            number, separator, answer = part.partition("|!+")
            try:
                found[answer] = float(number)
            except ValueError:
                separator = ""
            if not separator or not answer or not 0 <= found[answer] <= 1:
                raise self.wrong(field, "confidences 0..1 with answers, as 0.6|!+no&&0.3|!+yes", _show(part))
        if not found:
            raise self.wrong(field, "one answer or more", "none")
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def _parse(task: str, columns: dict[str, int], images: bool, line: bytes, where: str) -> Example:
    row = _Row(line, columns, where)
    name = row.id()
    question, answers, kind = "", [], ""
    extra: dict[str, Any] = {"task": task}
    if task == "vqa":
        question, confidences = row.text("question"), row.confidences("answers")
        answers = list(confidences)
        extra |= {"confidences": confidences, "objects": row.texts("objects") if "objects" in columns else []}
    elif task == "refer":
        question, kind = row.text("text"), "refer"
        extra["box"] = row.box("region_coord")
    elif task == "caption":
        answers, kind = row.texts("caption"), "caption"
        if not answers:
            raise row.wrong("caption", "one caption or more", "none")
    else:
        question, kind = row.text("hypothesis"), row.text("label")
        if kind not in ANSWERS:
            raise row.wrong("label", f"one of {', '.join(ANSWERS)}", _show(kind))
        answers, extra["caption"] = [ANSWERS[kind]], row.text("caption")
    image = row.image() if images else None
    return Example(question, answers, image=image, id=name, kind=kind, extra=extra)


def _show(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
