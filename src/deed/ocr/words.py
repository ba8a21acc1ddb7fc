"""A word with its box, as every OCR engine and data set gives it."""

from __future__ import annotations

from typing import NamedTuple


class Word(NamedTuple):
    """A word as OCR read it.

    Attributes:
        text: without white space.
        box: `x0, y0, x1, y1`, integers on 0..1000 of the image's width and height, `x0 <= x1`, `y0 <= y1`.
    """

    text: str
    box: tuple[int, int, int, int]


def unit_box(x0: float, y0: float, x1: float, y1: float, width: float, height: float) -> tuple[int, int, int, int]:
    """A box on 0..1000 of the image, clipped to it.

    Args:
        x0, y0, x1, y1: two opposite corners, in any order.
        width, height: of the image, in the corners' unit.
    """

    def scale(value: float, size: float) -> int:
        return round(min(1000, max(0, 1000 * value / size)))

    xs, ys = sorted((scale(x0, width), scale(x1, width))), sorted((scale(y0, height), scale(y1, height)))
    return xs[0], ys[0], xs[1], ys[1]
