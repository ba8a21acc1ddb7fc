"""The report's pages with their answers drawn in: what `report.json` says of a page, and its picture for the page.

Marks are laid over the picture by the page itself (sheets.html.j2), so that their labels stay sharp and readable at
every width. `report.json` keeps places and texts, not pictures.
"""

from __future__ import annotations

import base64
import io
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from .labels import place_labels
from .places import find_boxes, is_json, tokens_within, values_of

PICTURE = 900  # px of a picture's longer side; text of 12 px on a page of 1000 stays readable
QUALITY = 62  # of its JPEG: 40 to 90 kB
LABEL = 28  # characters


def sheet(
    page: dict[str, Any], words: Sequence[Any], answers: Sequence[tuple[int, dict[str, Any]]], end_token: str
) -> dict[str, Any]:
    """A page's entry: `page` itself with its answers' values, each with the boxes it was read from and its depth.

    Args:
        page: `{"name", "size", …}`, `size` the upright page's width and height.
        words: `(text, box)` as the OCR engine read them, boxes on 0..1000.
        answers: examples of the report (`question`, `answer`, `pieces`, `depths`, `expected`), each with its index there.
    """
    found: list[dict[str, Any]] = [{"example": i, "values": value_rows(e, words, end_token)} for i, e in answers]
    # Long answers first: a short question's label is long and goes where there is room left.
    marked = sorted((v for a in found for v in a["values"] if v["boxes"]), key=lambda v: not v["key"])
    marks = [(f"{v['label']} {v['depth']:.1f}", v["boxes"][0]) for v in marked]
    rest = [box for v in marked for box in v["boxes"][1:]]
    for v, side in zip(marked, place_labels(marks, [box for _, box in words], page["size"], rest), strict=True):
        v["side"] = side
    return {**page, "answers": found}


def value_rows(example: dict[str, Any], words: Sequence[Any], end_token: str) -> list[dict[str, Any]]:
    """Value by value: key, text, pieces with depths, mean depth, label, boxes; of JSON also `right` and `expected`.

    Args:
        example: a row of the report.
        words: of the page, with boxes.
        end_token: how the end is written.
    """
    pieces, depths = example["pieces"], example["depths"]
    wanted = expected_fields(example["expected"])
    rows = []
    for value in values_of(example["answer"]):
        at = tokens_within(value, pieces, end_token)
        own = [depths[i] for i in at]
        row: dict[str, Any] = {
            "key": value.key,
            "text": value.text,
            "pieces": [pieces[i] for i in at],
            "depths": own,
            "depth": sum(own) / len(own) if own else None,
            "label": value.key or textwrap.shorten(example["question"], LABEL, placeholder=" …"),
            "boxes": find_boxes(value.text, words, value.key or example["question"]),
        }
        if wanted is not None and value.key:
            row["expected"] = wanted.pop(value.key, None)
            row["right"] = row["expected"] is not None and _same(row["expected"], value.text)
        rows.append(row)
    if wanted is not None and is_json(example["answer"]):
        missing: dict[str, Any] = {"text": "", "pieces": [], "depths": [], "depth": None, "boxes": [], "right": False}
        rows += [{"key": key, "label": key, "expected": text, **missing} for key, text in wanted.items()]
    return rows


def expected_fields(expected: Sequence[str]) -> dict[str, str] | None:
    """The fields of the first expected answer; None where that is no JSON object."""
    if not expected or not is_json(expected[0]):
        return None
    return {key: str(text) for key, text in json.loads(expected[0]).items()}


def _same(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()


def picture_uri(image: Any) -> str:
    """A `PIL.Image.Image`, scaled down if need be, as a JPEG data URI."""
    image = image.convert("RGB")
    image.thumbnail((PICTURE, PICTURE))
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
