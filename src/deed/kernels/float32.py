"""float32 linears of PyTorch on a CPU: MKL by `linear`, and oneDNN with the weight as it is or packed.

A decoding step should take as long as its weights take to arrive. `linear` leaves float32 products to MKL (2024.2), which
gets 11 of the 27 GB/s of a Zen 4; oneDNN, part of the same PyTorch and what its compiler calls for linears on the CPU, gets
25. On Intel machines MKL is as fast for one row. Ours (`native/`) is faster than both for few rows on a Zen 5, behind oneDNN
for long blocks. So they are timed where they run (`choosing.py`); results differ by rounding. Row k of a block and that row
alone agree bit for bit in ours, and to rounding in the others, which change their way with the number of rows. The two that
keep a copy of the weight are taken only when `DEED_KERNELS` names them: they double the memory of the linears they run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from .choosing import LIMITS, ROWS, fastest, for_rows, forced, measuring
from .contract import Kernel, Linear
from .native.runs import PAD, NativeWeight, Run, available, stage

MIN_WEIGHTS = (
    2**18
)  # Smaller ones are in the processor's caches, where oneDNN's call (20 us) costs more than it saves.
PACKED_FOR_ROWS = 8


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight, bias)


def differentiated(*tensors: torch.Tensor | None) -> bool:
    """Whether a gradient is wanted, which only PyTorch's own product has."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _onednn(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    if differentiated(x, weight, bias):
        return _linear(weight.to_dense() if weight.is_mkldnn else weight, bias, x)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _by_transposed(transposed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    y = x @ transposed
    return y if bias is None else y + bias


def _transposed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    return functools.partial(_by_transposed, weight.detach().t().contiguous(), bias)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR_ROWS)
    return functools.partial(_onednn, reordered, bias)


class _Native:
    """By the library of `native/`, which reads the weight where it is; anew where its memory was replaced."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias, self.at = weight, bias, 0
        self.run: Run | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        if x.dtype != torch.float32 or differentiated(x, weight, bias) or weight.shape[1] % PAD:
            return _linear(weight, bias, x)
        at = weight.data_ptr() ^ (0 if bias is None else bias.data_ptr() << 1)
        if self.run is None or at != self.at:
            self.run = Run([stage(NativeWeight.float32(weight.detach()), bias)], (weight, bias))
            self.at = at
        return self.run(x)[1]  # type: ignore[return-value]


PLAIN = Kernel("plain", lambda weight, bias: functools.partial(_linear, weight, bias), copies=False)
ONEDNN = Kernel("onednn", lambda weight, bias: functools.partial(_onednn, weight, bias), copies=False)
NATIVE = Kernel("native", _Native, copies=False)
TRANSPOSED = Kernel("transposed", _transposed, copies=True)
PACKED = Kernel("packed", _packed, copies=True)
KERNELS = (PLAIN, ONEDNN, NATIVE, TRANSPOSED, PACKED)

_copies: Any = WeakTensorKeyDictionary()  # weight: (its state, what was prepared)


def product(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The function from `[…, in]` to `[…, out]` that is fastest for `weight` `[out, in]` on this machine."""
    if not _known_to_onednn(weight) or weight.numel() < MIN_WEIGHTS:
        return PLAIN.prepare(weight, bias)
    kernel = forced(KERNELS)
    if kernel is not None and kernel.copies:
        return _with_copy(kernel, weight, bias)
    return for_rows(fastest_for(*weight.shape), weight, bias)


def fastest_for(out_features: int, in_features: int) -> tuple[Kernel, ...]:
    """The kernel for each number of rows in `ROWS`: the one that `DEED_KERNELS` names, else the fastest that keeps no copy.
    With "fixed": ours, where it is built, and oneDNN for a long block.

    Args:
        out_features: size of the output.
        in_features: size of the input.
    """
    kernel, known = forced(KERNELS), candidates(in_features)
    if kernel is not None:
        return (kernel if kernel is not NATIVE or NATIVE in known else PLAIN,) * len(ROWS)
    if not measuring():
        few = next(one for one in (NATIVE, ONEDNN, PLAIN) if one in known)
        return (few,) * (len(ROWS) - 1) + (ONEDNN if ONEDNN in known else PLAIN,)
    return fastest(out_features, in_features, known)


def candidates(in_features: int) -> tuple[Kernel, ...]:
    """The kernels worth timing without a copy of the weight.

    Args:
        in_features: size of the input.
    """
    native = (NATIVE,) if available() and in_features % PAD == 0 else ()
    return (PLAIN, *((ONEDNN,) if _has_onednn() else ()), *native)


def native_up_to(out_features: int, in_features: int) -> int:
    """The most rows for which the native kernel is the fastest, all fewer included; small weights are not timed.

    Args:
        out_features: size of the output.
        in_features: size of the input.
    """
    if NATIVE not in candidates(in_features):
        return 0
    if out_features * in_features < MIN_WEIGHTS and forced(KERNELS) is None:
        return ROWS[-1]
    rows = 0
    for kernel, limit in zip(fastest_for(out_features, in_features), (*LIMITS, 2**62), strict=True):
        if kernel is not NATIVE:
            break
        rows = limit
    return rows


def _with_copy(kernel: Kernel, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """Prepared once per weight, and again after the weight was written to."""
    if weight.is_inference():  # counts no writes
        return PLAIN.prepare(weight, bias)
    state = (kernel.name, weight._version, weight.data_ptr(), None if bias is None else (id(bias), bias.data_ptr()))
    kept = _copies.get(weight)
    if kept is None or kept[0] != state:
        kept = _copies[weight] = (state, kernel.prepare(weight, bias))
    return kept[1]


def _known_to_onednn(weight: torch.Tensor) -> bool:
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()
    return plain and _has_onednn()


def _has_onednn() -> bool:
    usable = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return usable and hasattr(torch.ops.mkldnn, "_linear_pointwise")
