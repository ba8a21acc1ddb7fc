"""`choose`: the kernel that runs a linear of some shape for some number of rows on this machine."""

from __future__ import annotations

from .choosing import row_class
from .contract import Kernel
from .float32 import fastest_for
from .int8 import contract, faster_than_float32

PRECISIONS = ("float32", "int8")


def choose(shape: tuple[int, int], rows: int = 1, precision: str = "float32") -> Kernel:
    """The fastest kernel here. Timed on first use of the shape (milliseconds), then kept on disk (`cache.py`).

    Of int8 one kernel runs all numbers of rows, since a row must not depend on the rows beside it; where each is slower than
    float32 for some number of rows, it is float32's.

    Args:
        shape: (out, in) of the linear.
        rows: how many go through it at once.
        precision: "float32" or "int8".

    Returns:
        The kernel; `kernel.prepare(weight, bias)` gives the function.

    Raises:
        ValueError: an unknown precision, sizes below one, or no int8 kernel is exact on this machine.
    """
    out_features, in_features = shape
    if precision not in PRECISIONS or min(out_features, in_features, rows) < 1:
        raise ValueError(
            f"choose({shape}, {rows}, {precision!r}): sizes from 1 on, precision of {', '.join(PRECISIONS)}"
        )
    if precision == "int8":
        found = faster_than_float32(out_features, in_features)
        if found is not None:
            return contract(*found)
    return fastest_for(out_features, in_features)[row_class(rows)]
