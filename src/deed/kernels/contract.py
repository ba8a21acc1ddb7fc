"""The one contract for a linear layer at decoding time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Linear = Callable[[torch.Tensor], torch.Tensor]  # [..., in] to [..., out]


@dataclass(frozen=True)
class Kernel:
    """A way to run a linear.

    Args:
        name: as in `DEED_KERNELS`.
        prepare: weight `[out, in]` float32 and bias `[out]` or None to the function that runs.
        copies: `prepare` keeps a copy of the weight, which later changes of the weight do not reach.
    """

    name: str
    prepare: Callable[[torch.Tensor, torch.Tensor | None], Linear]
    copies: bool
