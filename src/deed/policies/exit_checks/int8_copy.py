"""A cheap copy of a matrix: int8 on the CPU, bfloat16 where there is no int8 kernel; what is built is kept per model
(`deed.exits.head_rows`).

Weights are rounded symmetrically, a scale per row of the matrix; vectors anew each time, a scale per vector, so that a row's
result does not depend on the batch it is in. Kernels: those of `deed.kernels.int8`, which says how they were chosen.
"""

from __future__ import annotations

import torch

from deed.kernels.int8 import Fbgemm, IntMM, is_exact, kernel

# Up to this width `_int_mm` is the faster one, though the weights have to come from memory: 32128 x 128 for one row, with a
# decoder layer's work before each call, takes 0.33 ms against FBGEMM's 0.64; at 256 they are even.
NARROW = 128

# Heads of so many weights are read by a copy first where that changes nothing but the time: T5-base's takes 2.3 ms for one
# row in float32 and 0.6 by the copy. Smaller ones take as long as the few small operations around the copy.
LARGE = 2**22

_TINY = 1e-30


def has_int8(device: torch.device) -> bool:
    """Whether there is an int8 kernel for this device."""
    if device.type != "cpu":
        return False
    try:
        kernel()
    except ValueError:
        return False
    return True


class CheapMatrix:
    """`x @ weight.T`, approximately.

    Args:
        weight: `[n, d]`; copied.
        careful: split the vectors into two int8 parts, so that nearly all error is the weights' and can be bounded.
            Half as much work again.
    """

    def __init__(self, weight: torch.Tensor, careful: bool = False) -> None:
        weight = weight.detach().float()
        self.int8 = has_int8(weight.device)
        self.careful = careful and self.int8
        if not self.int8:
            self.copy = weight.to(torch.bfloat16)
            return
        build, self.levels = kernel()
        if build is Fbgemm and weight.shape[1] <= NARROW and is_exact(IntMM, self.levels):
            build = IntMM
        scale = (weight.abs().amax(-1) / 127).clamp_(min=_TINY)
        self.multiply = build(weight, scale, self.levels)
        if careful:
            error = (weight / scale[:, None]).round_().mul_(scale[:, None]).sub_(weight)
            # Of a row, the 2-norm of what rounding changed; a thousandth more for ties, and for this sum in float32.
            self.errors = error.norm(dim=-1).mul_(1.001)  # [n]
            self.largest_error = float(self.errors.max())
            self.largest_norm = float(weight.norm(dim=-1).max()) + self.largest_error

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[r, n]` float32 for `[r, d]`."""
        if not self.int8:
            return torch.nn.functional.linear(x.to(torch.bfloat16), self.copy).float()
        x = x.float()
        largest = x.abs().amax(-1, keepdim=True).clamp_(min=_TINY)
        if not self.careful:
            return self.multiply(x / largest).mul_(largest)
        steps = x / largest * self.levels
        high = steps.round()
        both = self.multiply(torch.cat([high / self.levels, (steps - high) * 2]))
        return torch.add(both[: len(x)], both[len(x) :], alpha=1 / (2 * self.levels)).mul_(largest)

    def error(self, x: torch.Tensor) -> torch.Tensor:
        """`[r]` float32: no entry of the result is further than this from the exact product (`careful` only; rounding
        of floating point left out, see `screen.py`)."""
        x = x.float()
        return x.norm(dim=-1) * self.largest_error + self.error_of_x(x)

    def error_of_x(self, x: torch.Tensor) -> torch.Tensor:
        """`[r]` float32: the part of `error` that rounding `x` has; the other one is its norm times `errors` (a bound for
        each entry) or `largest_error` (one for all)."""
        # By Cauchy-Schwarz: (w + dw)(x + dx) - wx = dw x + (w + dw) dx. The second part of x is off by half a step of its own.
        half_step = x.abs().amax(-1).clamp_(min=_TINY) * (0.5 / (2 * self.levels**2))
        return half_step * (1.02 * x.shape[-1] ** 0.5 * self.largest_norm)

    def rounding(self, x: torch.Tensor) -> torch.Tensor:
        """`[r]` float32: how far floating point may move an entry, here and in the exact product: the usual
        (d + c) u |w||x|."""
        return x.norm(dim=-1) * (self.largest_norm * 4 * torch.finfo(torch.float32).eps * (x.shape[-1] + 16))
