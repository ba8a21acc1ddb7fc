"""Exact int8 products of PyTorch on a CPU: FBGEMM and `torch._int_mm`, and which of them this machine gets right."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch


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


@functools.cache
def kernel() -> tuple[Any, int]:
    """The first kernel that is exact on this machine, and the levels of activations it is exact with.

    Raises:
        ValueError: there is none.
    """
    for levels in (127, 63):
        for build in (Fbgemm, IntMM):
            if is_exact(build, levels):
                return build, levels
    raise ValueError(f"PyTorch {torch.__version__} has no exact int8 product for this CPU; use dtype='bf16'")


def is_exact(build: Any, levels: int) -> bool:
    """Whether a kernel exists here and gets the largest values right. Without VNNI, x86 adds two products of an unsigned
    and a signed byte in 16 bits, where they are silently cut off; 63 levels fit."""
    weight = torch.full((16, 66), 127.0)
    weight[1::2] = -127.0
    x = torch.tensor([1.0, -1.0, 0.0])[:, None].expand(3, 66).contiguous()
    try:
        product = build(weight, torch.ones(16), levels)(x)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, x @ weight.T, rtol=1e-5, atol=0)
