"""Which of PyTorch's two libraries multiplies a few rows by a large float32 matrix on a CPU.

A decoding step should take as long as its weights take to arrive. `linear` leaves float32 products to MKL (2024.2), which
gets 11 of the 27 GB/s of a Zen 4, whatever the number of threads; oneDNN, part of the same PyTorch and what its compiler
calls for linears on the CPU, gets 25. On an Intel machine MKL is as fast as the memory for one row and two, and oneDNN is
faster for 4 to 16 (`benchmarks/linear_kernels.py`, recorded on both). Weights stay as they are; results differ by rounding.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

Product = Callable[[torch.Tensor, "torch.Tensor | None", torch.Tensor], torch.Tensor]

# Smaller ones are in the processor's caches, where oneDNN's call (20 us) costs more than it saves.
ONEDNN_FROM = 2**18  # weights
ON_INTEL_FROM = 2**20
ON_INTEL_ROWS = range(4, 17)
CPUINFO = Path("/proc/cpuinfo")


def product(weight: torch.Tensor) -> Product:
    """The function `(weight, bias, x)` that is fastest for `weight` `[out, in]` on this machine."""
    if not _known_to_onednn(weight) or weight.numel() < (ON_INTEL_FROM if on_intel() else ONEDNN_FROM):
        return _linear
    return _by_rows if on_intel() else _onednn


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight, bias)


def _onednn(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _by_rows(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return (_onednn if x.numel() // x.shape[-1] in ON_INTEL_ROWS else _linear)(weight, bias, x)


def _known_to_onednn(weight: torch.Tensor) -> bool:
    return (
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def on_intel() -> bool:
    """Whether the processor is Intel's."""
    try:
        return "GenuineIntel" in CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return "intel" in platform.processor().lower()
