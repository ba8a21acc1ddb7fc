"""Rounded weights with float activations, under the interface of the int8 products (`int8.py`). Taken only when named by
`DEED_KERNELS`: with ours for int8, rounding activations as well is as fast for one row and faster for more (docs/kernels.md).

- "weight_only": int8, by the native library;
- "fp16_weights": float16, by FBGEMM (`torch.ops.quantized.linear_dynamic_fp16`); half of float32's bytes;
- "int4_weights": 4 bits, a scale and a zero point per 32 weights, by `torch.ops.aten._weight_int4pack_mm_for_cpu`. What it
  costs in quality is in docs/kernels.md.
"""

from __future__ import annotations

from typing import Any

import torch

from .native.runs import NativeWeight, Run, stage

GROUP = 32  # weights with a scale of their own, in 4 bits


class Shared:
    """Weights as a kernel wants them. They never change, so copies of a model share them."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a model quantised to int8 cannot be pickled; pickle it before quantize()")


class WeightOnly(Shared):
    """`x` `[…, in]` to `(x @ int8(weight)) * scale`.

    Args:
        weight: `[out, in]` float32.
        scale: `[out]` float32, a weight's worth of one step.
        levels: not used; activations are not rounded.

    Raises:
        RuntimeError: the native library is not there, or off.
    """

    rounds_activations = False

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        self.weight = NativeWeight.weight_only(rounded, scale)
        self.run = Run([stage(self.weight)], self.weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)[1]  # type: ignore[return-value]

    def row_wise(self, bias: torch.Tensor | None) -> Any:
        """The linear with its bias.

        Args:
            bias: `[out]` or None.
        """
        bias = None if bias is None else bias.float().contiguous()
        run = Run([stage(self.weight, bias)], (self.weight, bias))
        return lambda x: run(x)[1]


class Fp16Weights(Shared):
    """`x` `[…, in]` to `x @ float16(weight)`.

    Args:
        weight: `[out, in]` float32.
        scale: not used.
        levels: not used.

    Raises:
        RuntimeError: PyTorch has no FBGEMM here.
        AttributeError: nor the operation.
    """

    rounds_activations = False

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        self.run = torch.ops.quantized.linear_dynamic_fp16.default
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            self.packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x, self.packed)


class Int4Weights(Shared):
    """`x` `[…, in]` to `x @ int4(weight)`, a scale and a zero point per 32 weights.

    Args:
        weight: `[out, in]` float32; `in` a multiple of 32, `out` of 16.
        scale: not used.
        levels: not used.

    Raises:
        RuntimeError: another size.
        AttributeError: PyTorch lacks the operation.
    """

    rounds_activations = False

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, levels: int) -> None:
        out, width = weight.shape
        if width % GROUP or out % 16:
            raise RuntimeError(f"4-bit weights need sizes in multiples of {GROUP} and 16, got {width} and {out}")
        self.run = torch.ops.aten._weight_int4pack_mm_for_cpu.default
        groups = weight.reshape(out, -1, GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        step = ((high - low) / 15).clamp_(min=torch.finfo(torch.float32).tiny)
        codes = ((groups - low[..., None]) / step[..., None]).round_().clamp_(0, 15).to(torch.int32)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.reshape(out, width), 1)
        # The operation gives (code - 8) * scale + zero.
        self.steps = torch.stack([step, low + 8 * step], -1).transpose(0, 1).contiguous()
        self.out = out

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return self.run(rows, self.packed, GROUP, self.steps).view(*x.shape[:-1], self.out)
