"""What both engines hand back, and the error for one that is not installed."""

from __future__ import annotations

from typing import NamedTuple

from .words import Word


class Reading(NamedTuple):
    """One reading of an image as it lies.

    Attributes:
        words: in reading order.
        upright: characters in lines that stand upright, each times the confidence of its line or word (0..1). The
            turn of the page with most of them is the right one.
        turn: by how many degrees clockwise (0, 90, 180, 270) the engine would turn the page to have it upright.
    """

    words: list[Word]
    upright: float
    turn: int
