"""Exact int8 products of PyTorch on a CPU, and which of them this machine gets right.

- FBGEMM by `torch.ops.quantized`, which quantises, multiplies and scales in one pass. The quantised dtypes that it packs
  weights from are deprecated in PyTorch 2.13 (pytorch#184982); once they are gone it counts as not there. It has its own
  choice of instruction sets: `ATEN_CPU_CAPABILITY` and the like do not reach it, `FBGEMM_ENABLE_INSTRUCTIONS=AVX2` does;
- `torch._int_mm`, with the steps around it ours: what torchao's int8 configuration calls too. Without a processor of its
  kind (VNNI by oneDNN) it falls back to a loop that is slower than float32.

Weight-only int8 (`_weight_int8pack_mm`) is slower than float32 in PyTorch 2.13 for float32 activations (768 x 768, one row:
0.26 ms against 0.14; eight rows: 4.7 against 0.16) and is not offered; neither is oneDNN's `qlinear_pointwise`, which is a
loop for signed activations and behind FBGEMM for unsigned ones.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

from .choosing import MARGIN, faster, forced, measure, measuring
from .contract import Kernel
from .float32 import candidates

_TINY = torch.finfo(torch.float32).tiny


class _Packed:
    """Int8 weights as a kernel wants them. They never change, so copies of a model share them."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a model quantised to int8 cannot be pickled; pickle it before quantize()")


class Fbgemm(_Packed):
    """`x` `[…, in]` with values in -1..1 to `(round(levels x) @ int8(weight)) * scale / levels`, by FBGEMM.

    Args:
        weight: `[out, in]` float32.
        scale: `[out]` float32, a weight's worth of one step.
        levels: 127, or 63 for a CPU that adds neighbouring products in 16 bits (activations are unsigned inside).
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        self.run = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        self.step, self.zero = 1 / levels, levels + 1
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"  # what linear_prepack packs for
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*quantize_per_channel.*deprecated")
                zeros = torch.zeros(len(scale), dtype=torch.long)
                rounded = torch.quantize_per_channel(weight, scale.double(), zeros, 0, torch.qint8)
                self.packed = torch.ops.quantized.linear_prepack(rounded, None)
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x, self.step, self.zero, self.packed)


class IntMM(_Packed):
    """The same by `torch._int_mm`."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        self.weight = (weight / scale[:, None]).round_().to(torch.int8).T
        self.levels, self.scale = levels, scale / levels

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rounded = (x * self.levels).round_().to(torch.int8)
        product = torch._int_mm(rounded.reshape(-1, x.shape[-1]), self.weight) * self.scale
        return product.view(*x.shape[:-1], product.shape[-1])


class RowWise:
    """A linear of the contract out of an int8 product: activations are scaled per row, each by its own largest value.

    Args:
        multiply: `Fbgemm` or `IntMM`.
        bias: `[out]` or None.
    """

    def __init__(self, multiply: Any, bias: torch.Tensor | None) -> None:
        self.multiply, self.bias = multiply, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[…, in]` float32 to `[…, out]`."""
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(_TINY)  # vector_norm takes up to 16 times as long
        # Products and sums stay apart: fused, they would round differently in the tail of a vector than in its body,
        # and a row's place in the block would show.
        y = self.multiply(x / largest).mul_(largest)
        return y if self.bias is None else y.add_(self.bias)


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """`[out]`: one step of each output's weights `[out, in]`, 127 to the largest."""
    return (weight.abs().amax(1) / 127).clamp_(min=_TINY)


def exact_kernels() -> list[tuple[Any, int]]:
    """Of each kernel the most levels of activations it is exact with on this machine, FBGEMM first."""
    found = []
    for build in (Fbgemm, IntMM):
        levels = next((levels for levels in (127, 63) if is_exact(build, levels)), None)
        if levels is not None:
            found.append((build, levels))
    return found


@functools.cache
def kernel() -> tuple[Any, int]:
    """The kernel for what is not measured, and the levels of activations it is exact with.

    FBGEMM at 63 levels goes before `_int_mm` at 127: where FBGEMM is not exact with 127, `_int_mm` has no fast path.

    Raises:
        ValueError: there is none.
    """
    found = exact_kernels()
    if not found:
        raise ValueError(f"PyTorch {torch.__version__} has no exact int8 product for this CPU; use dtype='bf16'")
    names = [contract(*one) for one in found]
    wanted = forced(names)
    return found[0] if wanted is None else found[names.index(wanted)]


@functools.cache
def contract(build: Any, levels: int) -> Kernel:
    """An int8 kernel under the contract of this package."""

    def prepare(weight: torch.Tensor, bias: torch.Tensor | None) -> RowWise:
        return RowWise(build(weight, weight_scale(weight), levels), bias)

    name = {"Fbgemm": "fbgemm", "IntMM": "int_mm"}.get(build.__name__, build.__name__)
    return Kernel(f"{name}_at_{levels}", prepare, copies=True)


def faster_than_float32(out_features: int, in_features: int) -> tuple[Any, int] | None:
    """The fastest exact int8 kernel and its levels for a linear of this size; None where each is slower than float32
    for some number of rows. `DEED_KERNELS` with "fixed" or the name of an int8 kernel: `kernel()`, unmeasured.

    Raises:
        ValueError: no int8 kernel is exact here.
    """
    default, found = kernel(), exact_kernels()
    contracts = [contract(*one) for one in found]
    if forced(contracts) is not None or not measuring():
        return default
    floats = candidates()
    times = measure(out_features, in_features, (*floats, *contracts))
    best = None
    for one, int8 in zip(found, contracts, strict=True):
        if faster(times, int8.name, [f.name for f in floats]):
            taken = sum(times[int8.name][:-1])  # decoding steps; a long block has only not to be slower
            if best is None or taken < MARGIN * best[0]:
                best = (taken, one)
    return None if best is None else best[1]


def is_exact(build: Any, levels: int) -> bool:
    """Whether a kernel exists here and gets the largest values right. Without VNNI, x86 adds two products of an unsigned
    and a signed byte in 16 bits, where they are silently cut off; 63 levels fit.

    Args:
        build: `Fbgemm` or `IntMM`.
        levels: of activations to either side of zero.
    """
    weight = torch.full((16, 66), 127.0)
    weight[1::2] = -127.0
    x = torch.tensor([1.0, -1.0, 0.0])[:, None].expand(3, 66).contiguous()
    try:
        product = build(weight, torch.ones(16), levels)(x)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, x @ weight.T, rtol=1e-5, atol=0)
