"""Boxes as location bins: a coordinate of the resized picture, over `max_image_size`, on 0..n_bins - 1.

As in the original, which resizes every picture of referring expressions to 512 x 512 without keeping its shape and rounds
in single precision, halves to the even number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def box_to_bins(
    box: Sequence[float], size: tuple[int, int], image_size: int, max_image_size: int, n_bins: int
) -> list[int]:
    """Four bin numbers `x0, y0, x1, y1`, clipped to the bins there are.

    Args:
        box: `x0, y0, x1, y1` in pixels of the picture as it is.
        size: its width and height.
        image_size: side of the square it is resized to.
        max_image_size: the coordinate that the last bin stands for.
        n_bins: at least two.

    Raises:
        ValueError: not four finite numbers, corners in the wrong order, or sizes that are not positive.
    """
    _check(size, image_size, max_image_size, n_bins)
    numbers = [float(x) for x in box]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"a box is four numbers x0, y0, x1, y1 in pixels, got {list(box)}")
    if numbers[0] > numbers[2] or numbers[1] > numbers[3]:
        raise ValueError(f"a box is x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {numbers}")
    ratios = np.array([image_size / size[0], image_size / size[1]] * 2, dtype=np.float32)
    placed = np.array(numbers, dtype=np.float32) * ratios / np.float32(max_image_size)
    return np.clip(np.round(placed * np.float32(n_bins - 1)), 0, n_bins - 1).astype(int).tolist()


def bins_to_box(
    bins: Sequence[int], size: tuple[int, int], image_size: int, max_image_size: int, n_bins: int
) -> tuple[float, float, float, float]:
    """The way back: four bin numbers to `x0, y0, x1, y1` in pixels of the picture as it is, not ordered or clipped.

    Args:
        bins: bin numbers `x0, y0, x1, y1`, from 0.
        size: width and height of the picture as it is.
        image_size: side of the square it is resized to.
        max_image_size: the coordinate that the last bin stands for.
        n_bins: at least two.

    Raises:
        ValueError: not four bin numbers, or sizes that are not positive.
    """
    _check(size, image_size, max_image_size, n_bins)
    if len(bins) != 4 or not all(0 <= b < n_bins for b in bins):
        raise ValueError(f"expected four bins of 0..{n_bins - 1}, got {list(bins)}")
    width, height = size
    x0, y0, x1, y1 = (b / (n_bins - 1) * max_image_size / image_size for b in bins)
    return x0 * width, y0 * height, x1 * width, y1 * height


def _check(size: tuple[int, int], image_size: int, max_image_size: int, n_bins: int) -> None:
    if len(size) != 2 or min(*size, image_size, max_image_size) <= 0 or n_bins < 2:
        raise ValueError(
            "sizes must be positive and bins at least two, got "
            f"size={tuple(size)}, image_size={image_size}, max_image_size={max_image_size}, n_bins={n_bins}"
        )


__all__ = ["bins_to_box", "box_to_bins"]
