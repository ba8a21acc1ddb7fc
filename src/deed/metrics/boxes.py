"""Boxes of referring expressions: intersection over union, Acc@0.5, and corners from corner and size.

A box is `x0, y0, x1, y1` in pixels (or any unit that both boxes share), `x1` and `y1` where it ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
EPSILON = 1e-6  # as in OFA's evaluation: no division by zero, at the price of an exact 0.5 just below it
THRESHOLD = 0.5


def xywh_to_xyxy(box: Sequence[float]) -> Box:
    """`x, y, width, height`, as COCO and RefCOCO write a box, to its corners.

    Raises:
        ValueError: not four numbers, or a negative size.
    """
    x, y, width, height = _four(box)
    if width < 0 or height < 0:
        raise ValueError(f"a box is x, y, width, height, sizes not negative, got {list(box)}")
    return x, y, x + width, y + height


def xyxy_to_xywh(box: Sequence[float]) -> Box:
    """The way back.

    Raises:
        ValueError: not four numbers, or corners in the wrong order.
    """
    x0, y0, x1, y1 = _four(box)
    if x1 < x0 or y1 < y0:
        raise ValueError(f"a box is x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {list(box)}")
    return x0, y0, x1 - x0, y1 - y0


def iou(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union, 0..1; 0 where they share no area, as where a box's corners are in the wrong order, or
    where a number is not finite.

    Raises:
        ValueError: not four numbers.
    """
    x0, y0, x1, y1 = _four(box)
    u0, v0, u1, v1 = _four(other)
    width, height = min(x1, u1) - max(x0, u0), min(y1, v1) - max(y0, v0)
    if width <= 0 or height <= 0 or not all(map(math.isfinite, (x0, y0, x1, y1, u0, v0, u1, v1))):
        return 0.0
    shared = width * height
    return shared / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared + EPSILON)


def box_accuracy(
    predictions: Sequence[Sequence[float] | None], references: Sequence[Sequence[float]], threshold: float = THRESHOLD
) -> float:
    """Acc@0.5 of referring expressions, 0..1: the mean of `box_accuracy_each`.

    Args:
        predictions: a box per expression; None where the model gave none.
        references: the box meant.
        threshold: the smallest `iou` that counts.
    """
    scores = box_accuracy_each(predictions, references, threshold)
    return sum(scores) / len(scores)


def box_accuracy_each(
    predictions: Sequence[Sequence[float] | None], references: Sequence[Sequence[float]], threshold: float = THRESHOLD
) -> list[float]:
    """1 where a predicted box overlaps its reference at all and their `iou` reaches the threshold, else 0.

    Args:
        predictions: a box per expression; None where the model gave none, which is wrong.
        references: the box meant.

    Raises:
        ValueError: no predictions, not as many references, or a box that is not four numbers.
    """
    if not len(predictions) or len(predictions) != len(references):
        raise ValueError(f"need as many references as predictions, got {len(references)} and {len(predictions)}")
    pairs = zip(predictions, references, strict=True)
    overlaps = [0.0 if box is None else iou(box, wanted) for box, wanted in pairs]
    return [float(overlap > 0 and overlap >= threshold) for overlap in overlaps]


def _four(box: Sequence[float]) -> list[float]:
    try:
        numbers = [float(x) for x in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4:
        raise ValueError(f"a box is four numbers, got {box!r}")
    return numbers
