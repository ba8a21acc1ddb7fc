"""Exact int8 products on a CPU, and which of them this machine gets right.

- Ours (`native/`), where the library was built: row scale, rounding, product, scales and bias in one call, exact with 127
  levels on every processor, bit for bit what `_int_mm` gives;
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
import os
import warnings
from typing import Any

import torch

from .choosing import MARGIN, VARIABLE, faster, forced, in_doubt, measure, measuring, rows_are_independent
from .contract import Kernel, Linear
from .float32 import candidates
from .native.runs import NativeWeight, Run, stage
from .weight_only import Fp16Weights, Int4Weights, Shared, WeightOnly

TYPICAL = (256, 768)  # (out, in) on which a named kernel is tried
_TINY = torch.finfo(torch.float32).tiny


class Fbgemm(Shared):
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


class IntMM(Shared):
    """The same by `torch._int_mm`."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        self.weight = (weight / scale[:, None]).round_().to(torch.int8).T
        self.levels, self.scale = levels, scale / levels

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rounded = (x * self.levels).round_().to(torch.int8)
        product = torch._int_mm(rounded.reshape(-1, x.shape[-1]), self.weight) * self.scale
        return product.view(*x.shape[:-1], product.shape[-1])


class Native(Shared):
    """The same by the library of `native/`.

    Raises:
        RuntimeError: it is not there, or off.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        self.weight = NativeWeight.int8(rounded, scale, levels)
        self.run = Run([stage(self.weight, dynamic=False)], self.weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)[1]  # type: ignore[return-value]

    def row_wise(self, bias: torch.Tensor | None) -> Linear:
        """The linear with row scales and its bias, in one call.

        Args:
            bias: `[out]` or None.
        """
        bias = None if bias is None else bias.float().contiguous()
        run = Run([stage(self.weight, bias)], (self.weight, bias))
        return lambda x: run(x)[1]  # type: ignore[return-value]


class RowWise(Shared):
    """A linear of the contract out of an int8 product: activations are scaled per row, each by its own largest value.

    Args:
        multiply: `Native`, `Fbgemm` or `IntMM`.
        bias: `[out]` or None.
    """

    def __init__(self, multiply: Any, bias: torch.Tensor | None) -> None:
        self.multiply, self.bias = multiply, bias
        self.whole = multiply.row_wise(bias) if hasattr(multiply, "row_wise") else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[…, in]` float32 to `[…, out]`."""
        if self.whole is not None:
            return self.whole(x)
        if not getattr(self.multiply, "rounds_activations", True):
            y = self.multiply(x)
            return y if self.bias is None else y.add_(self.bias)
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(_TINY)  # vector_norm takes up to 16 times as long
        # Products and sums stay apart: fused, they would round differently in the tail of a vector than in its body,
        # and a row's place in the block would show.
        y = self.multiply(x / largest).mul_(largest)
        return y if self.bias is None else y.add_(self.bias)


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """`[out]`: one step of each output's weights `[out, in]`, 127 to the largest."""
    return (weight.abs().amax(1) / 127).clamp_(min=_TINY)


def exact_kernels() -> list[tuple[Any, int]]:
    """Of each kernel the most levels of activations it is exact with on this machine; ours first, then FBGEMM."""
    found = []
    for build in (Native, Fbgemm, IntMM):
        levels = next((levels for levels in (127, 63) if is_exact(build, levels)), None)
        if levels is not None:
            found.append((build, levels))
    return found


def kernel() -> tuple[Any, int]:
    """The kernel for what is not measured, and the levels of activations it is exact with.

    FBGEMM at 63 levels goes before `_int_mm` at 127: where FBGEMM is not exact with 127, `_int_mm` has no fast path.

    Raises:
        ValueError: there is none, or `DEED_KERNELS` names one whose rows depend on the rows beside them here.
    """
    return kernel_where(os.environ.get(VARIABLE, ""))


@functools.cache
def kernel_where(said: str) -> tuple[Any, int]:
    """`kernel()` where `DEED_KERNELS` is `said`, found out once: what was first asked for does not stay for other settings.

    Raises:
        ValueError: see `kernel()`.
    """
    found = exact_kernels()
    wanted = _named(found)
    if wanted is not None:
        if not _independent(*wanted, *TYPICAL):
            name = contract(*wanted).name.split("_at_")[0]
            raise ValueError(
                f"{VARIABLE}={said!r}: a row by {name} depends on the rows beside it on this machine (FBGEMM's float16 "
                "product does so on AVX2), so that answers would change with the batch; name another kernel"
            )
        return wanted
    if not found:
        raise ValueError(f"PyTorch {torch.__version__} has no exact int8 product for this CPU; use dtype='bf16'")
    return found[0]


def _named(found: list[tuple[Any, int]]) -> tuple[Any, int] | None:
    """The kernel that `DEED_KERNELS` names, if it is one for int8 that works here."""
    known = [*found, *((build, 127) for build in (WeightOnly, Fp16Weights, Int4Weights))]
    names = [contract(*one) for one in known]
    wanted = forced(names)
    return None if wanted is None else known[names.index(wanted)]


NAMES = {
    "Native": "native_int8",
    "Fbgemm": "fbgemm",
    "IntMM": "int_mm",
    "WeightOnly": "weight_only",
    "Fp16Weights": "fp16_weights",
    "Int4Weights": "int4_weights",
}


@functools.cache
def contract(build: Any, levels: int) -> Kernel:
    """An int8 kernel under the contract of this package.

    Args:
        build: one of those here and in `weight_only.py`.
        levels: of activations to either side of zero.
    """

    def prepare(weight: torch.Tensor, bias: torch.Tensor | None) -> RowWise:
        return RowWise(build(weight, weight_scale(weight), levels), bias)

    return Kernel(f"{NAMES.get(build.__name__, build.__name__)}_at_{levels}", prepare, copies=True)


def faster_than_float32(out_features: int, in_features: int) -> tuple[Any, int] | None:
    """The fastest exact int8 kernel and its levels for a linear of this size; None where each is clearly slower than float32
    for some number of rows. In doubt, where the machine is too busy to tell, int8: somebody asked for it.
    Kernels whose rows depend on the rows beside them are left out. `DEED_KERNELS` with "fixed" or
    the name of an int8 kernel: `kernel()`, unmeasured.

    Args:
        out_features: size of the output.
        in_features: size of the input.

    Raises:
        ValueError: no int8 kernel is exact here.
    """
    default, found = kernel(), exact_kernels()
    if _named(found) is not None or not measuring():
        return default
    contracts = [contract(*one) for one in found]
    floats = candidates(in_features)
    timed = (*floats, *contracts)
    times, doubt = measure(out_features, in_features, timed), in_doubt(out_features, in_features, timed)
    best = None
    for one, int8 in zip(found, contracts, strict=True):
        pays = doubt or faster(times, int8.name, [f.name for f in floats])
        if pays and _independent(*one, out_features, in_features):
            taken = sum(times[int8.name][:-1])  # decoding steps; a long block has only not to be slower
            if best is None or taken < MARGIN * best[0]:
                best = (taken, one)
    return None if best is None else best[1]


@functools.cache
def _independent(build: Any, levels: int, out_features: int, in_features: int) -> bool:
    return rows_are_independent(contract(build, levels), out_features, in_features)


def is_exact(build: Any, levels: int) -> bool:
    """Whether a kernel exists here and gets the largest values right. Without VNNI, x86 adds two products of an unsigned
    and a signed byte in 16 bits, where they are silently cut off; 63 levels fit.

    Args:
        build: `Native`, `Fbgemm` or `IntMM`.
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
