"""What both engines hand back, and the error for one that is not installed."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from ..tasks.base import DataError, Word

INSTALL = 'pip install "deed-transformers[ocr]"'


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


def need(module: str, fix: str = INSTALL) -> Any:
    """The module, imported.

    Raises:
        DataError: it is not installed, or a library that it needs is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{module} cannot be imported ({error}): {fix}") from None
