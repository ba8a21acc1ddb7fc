"""Lines of text that an engine found on a page: their words, and the order in which they are read."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

TALL = 1.5  # from here on (height over width) RapidOCR takes a line's text to stand on end


class Line(NamedTuple):
    """A line of text.

    Attributes:
        words: with their corners `[n, 2]`, pixels.
        score: how sure the engine is, 0..1.
        corners: `[4, 2]`, clockwise from the top left.
        flipped: whether it was taken to be upside down.
        asked: whether that was asked at all.
    """

    words: list[tuple[str, np.ndarray]]
    score: float
    corners: np.ndarray
    flipped: bool = False
    asked: bool = False

    @property
    def chars(self) -> int:
        """Number of characters."""
        return sum(len(text) for text, _ in self.words)

    @property
    def sides(self) -> tuple[float, float]:
        """Width along the text and height across it, pixels."""
        across, down = self.corners[1] - self.corners[0], self.corners[3] - self.corners[0]
        return math.hypot(*across), math.hypot(*down)

    @property
    def tall(self) -> bool:
        """Whether it stands on end."""
        width, height = self.sides
        return height >= TALL * width


def join_pieces(text: str, pieces: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Words of a line. Where it has a single Chinese character in it, RapidOCR gives a box to every character; those of
    other scripts are put together to words again.

    Args:
        text: the line.
        pieces: parts of it in their order, with their corners `[4, 2]`.

    Returns:
        Words without white space, with the corners of all their pieces `[n, 2]`.
    """
    by_character = any(_is_wide(piece) for piece, _ in pieces)
    words: list[tuple[str, np.ndarray]] = []
    place = 0
    for piece, corners in pieces:
        found = text.find(piece, place)
        adjacent = found == place and place > 0
        place = max(found, place) + len(piece)
        piece = "".join(piece.split())
        if not piece:
            continue
        if by_character and adjacent and words and not _is_wide(piece) and not _is_wide(words[-1][0]):
            words[-1] = words[-1][0] + piece, np.concatenate([words[-1][1], corners])
        else:
            words.append((piece, corners))
    return words


def _is_wide(text: str) -> bool:
    return any("\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\uffef" for char in text)


def reading_order(lines: list[Line]) -> list[Line]:
    """Lines row by row, each row from left to right; rows of a skewed page run along its skew."""
    if not lines:
        return []
    flat = [line for line in lines if not line.tall] or lines
    slopes = sorted((math.atan2(*(line.corners[1] - line.corners[0])[::-1]), line.sides[0]) for line in flat)
    half, angle = sum(width for _, width in slopes) / 2, 0.0
    for slope, width in slopes:  # the median, by length: short lines tell little
        angle, half = slope, half - width
        if half <= 0:
            break
    cos, sin = math.cos(-angle), math.sin(-angle)
    placed = []
    for line in lines:
        x, y = line.corners.mean(0)
        placed.append((x * sin + y * cos, x * cos - y * sin, min(line.sides), line))
    placed.sort(key=lambda item: item[0])
    rows: list[list[Any]] = []
    for item in placed:
        row = rows[-1] if rows else []
        level = sum(y for y, *_ in row) / len(row) if row else -math.inf
        if row and item[0] - level < min(item[2], min(size for _, _, size, _ in row)) / 2:
            row.append(item)
        else:
            rows.append([item])
    return [line for row in rows for *_, line in sorted(row, key=lambda item: item[1])]
