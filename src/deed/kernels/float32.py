"""float32 linears of PyTorch on a CPU: MKL by `linear`, and oneDNN with the weight as it is or packed.

A decoding step should take as long as its weights take to arrive. `linear` leaves float32 products to MKL (2024.2), which
gets 11 of the 27 GB/s of a Zen 4; oneDNN, part of the same PyTorch and what its compiler calls for linears on the CPU, gets
25. On Intel machines MKL is as fast for one row. So the two are timed where they run (`choosing.py`); results differ by
rounding. The two that keep a copy of the weight are taken only when `DEED_KERNELS` names them: they double the memory of
the linears they run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from .choosing import choose, for_rows, forced
from .contract import Kernel, Linear

MIN_WEIGHTS = (
    2**18
)  # Smaller ones are in the processor's caches, where oneDNN's call (20 us) costs more than it saves.
PACKED_FOR_ROWS = 8


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight, bias)


def _onednn(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _by_transposed(transposed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    y = x @ transposed
    return y if bias is None else y + bias


def _transposed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    return functools.partial(_by_transposed, weight.detach().t().contiguous(), bias)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR_ROWS)
    return functools.partial(_onednn, reordered, bias)


PLAIN = Kernel("plain", lambda weight, bias: functools.partial(_linear, weight, bias), copies=False)
ONEDNN = Kernel("onednn", lambda weight, bias: functools.partial(_onednn, weight, bias), copies=False)
TRANSPOSED = Kernel("transposed", _transposed, copies=True)
PACKED = Kernel("packed", _packed, copies=True)
KERNELS = (PLAIN, ONEDNN, TRANSPOSED, PACKED)

_copies: Any = WeakTensorKeyDictionary()  # weight: (its state, what was prepared)


def product(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The function from `[…, in]` to `[…, out]` that is fastest for `weight` `[out, in]` on this machine."""
    if not _known_to_onednn(weight) or weight.numel() < MIN_WEIGHTS:
        return PLAIN.prepare(weight, bias)
    kernel = forced(KERNELS)
    if kernel is not None and kernel.copies:
        return _with_copy(kernel, weight, bias)
    kernels = candidates() if kernel is None else (kernel,)
    chosen = choose(weight.shape[0], weight.shape[1], kernels, fallback=ONEDNN)
    return for_rows(chosen, weight, bias)


def candidates() -> tuple[Kernel, ...]:
    """The kernels worth timing without a copy of the weight."""
    return (PLAIN, ONEDNN) if _has_onednn() else (PLAIN,)


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
