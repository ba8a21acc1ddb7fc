"""What every task shares: words with boxes, a question about an image, and the error for data that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class DataError(ValueError):
    """Data that cannot be read; the message names file, line or field, and the fix."""


class Word(NamedTuple):
    """A word as OCR read it.

    Attributes:
        text: without white space.
        box: `x0, y0, x1, y1`, integers on 0..1000 of the image's width and height, `x0 <= x1`, `y0 <= y1`.
    """

    text: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Example:
    """A question about one image.

    Attributes:
        question: as asked.
        answers: all that count as right, one per annotator where a data set has several; empty in test splits.
        words: the image's text in reading order; empty where there is none or no OCR is given.
        image: the file, or the picture itself (`PIL.Image.Image`); None for a text-only example.
        id: the data set's own question id.
        kind: what sort of question it is, for tables by kind.
        extra: fields of the data set that metrics need.
    """

    question: str
    answers: list[str]
    words: list[Word] = field(default_factory=list)
    image: Path | Any | None = None
    id: str = ""
    kind: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def unit_box(x0: float, y0: float, x1: float, y1: float, width: float, height: float) -> tuple[int, int, int, int]:
    """A pixel box, corners in any order, on 0..1000, clipped to the image."""

    def scale(value: float, size: float) -> int:
        return min(1000, max(0, round(1000 * value / size)))

    xs, ys = sorted((scale(x0, width), scale(x1, width))), sorted((scale(y0, height), scale(y1, height)))
    return xs[0], ys[0], xs[1], ys[1]
