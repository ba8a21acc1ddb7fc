"""Weights as the native kernels want them, and calls of a chain of linears."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from . import (
    FLOAT32,
    INT8,
    NO_NORM,
    OUTPUT,
    RESIDUAL,
    SETS,
    WEIGHT_ONLY,
    Call,
    Norm,
    Stage,
    Weight,
    instruction_set,
    load,
)

PAD = 16  # outputs per block, and what the width of a packed weight is a multiple of
NOTHING = Norm(None, None, NO_NORM, 0.0)


def available() -> bool:
    """Whether the library is there and not switched off (`DEED_NATIVE`)."""
    return instruction_set() is not None


class NativeWeight:
    """A weight as a kernel reads it, and the structure that points to it.

    Args:
        kind: `INT8`, `WEIGHT_ONLY` or `FLOAT32`.
        data: what `abi.h` says of the kind.
        scale: `[out]`, padded here; None for `FLOAT32`.
        size: (out, in).
        levels: `INT8`: of activations to either side of zero.

    Raises:
        RuntimeError: the library is not there, or off.
    """

    def __init__(
        self, kind: int, data: torch.Tensor, scale: torch.Tensor | None, size: tuple[int, int], levels: float = 0
    ) -> None:
        if not available():
            raise RuntimeError("the native kernels are not built, or off (DEED_NATIVE=off)")
        self.data, self.size = data, size
        self.scale = None if scale is None else torch.nn.functional.pad(scale.float(), (0, -len(scale) % PAD))
        self.struct = Weight(*size, data.data_ptr(), address(self.scale), kind, levels)

    @classmethod
    def int8(cls, rounded: torch.Tensor, scale: torch.Tensor, levels: int) -> NativeWeight:
        """Activations are rounded too.

        Args:
            rounded: `[out, in]` int8.
            scale: `[out]` float32, a weight's worth of one step.
            levels: of activations to either side of zero.
        """
        out, width = rounded.shape
        data = torch.empty(-(-out // PAD) * PAD * (-(-width // PAD) * PAD), dtype=torch.uint8)
        made = cls(INT8, data, scale.float() / levels, (out, width), levels)
        rounded = rounded.contiguous()
        load().deed_pack(rounded.data_ptr(), out, width, data.data_ptr())
        return made

    @classmethod
    def weight_only(cls, rounded: torch.Tensor, scale: torch.Tensor) -> NativeWeight:
        """Activations stay as they are.

        Args:
            rounded: `[out, in]` int8.
            scale: `[out]` float32, a weight's worth of one step.
        """
        data = torch.nn.functional.pad(rounded, (0, -rounded.shape[1] % PAD)).contiguous()
        return cls(WEIGHT_ONLY, data, scale, (rounded.shape[0], rounded.shape[1]))

    @classmethod
    def float32(cls, weight: torch.Tensor) -> NativeWeight:
        """`weight` `[out, in]` as it is, not copied.

        Raises:
            ValueError: not float32, not contiguous, or `in` is no multiple of 16.
        """
        if weight.dtype != torch.float32 or not weight.is_contiguous() or weight.shape[1] % PAD:
            raise ValueError(f"a float32 weight must be contiguous, its width a multiple of {PAD}")
        return cls(FLOAT32, weight, None, (weight.shape[0], weight.shape[1]))


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's values begin."""
    return None if tensor is None else tensor.data_ptr()


def stage(
    weight: NativeWeight,
    bias: torch.Tensor | None = None,
    role: int = OUTPUT,
    activation: int = 0,
    before: Norm = NOTHING,
    after: Norm = NOTHING,
    dynamic: bool = True,
    same_input: bool = False,
    column: int = 0,
    stride: int | None = None,
) -> Stage:
    """One linear of a chain. Who calls keeps the tensors alive.

    Args:
        weight: of the linear.
        bias: `[out]` float32 or None.
        role: `OUTPUT`, `GATE` or `RESIDUAL`.
        activation: index in `ACTIVATIONS`.
        before: norm of what is read.
        after: norm of the residual sum.
        dynamic: `INT8`: round to the row's largest value; else values are in -1..1.
        same_input: reads what the stage before read, with the same norm, kind and levels.
        column: of an output, where its first value stands in a row.
        stride: length of that row; the number of outputs if not given.
    """
    flags = (role, activation, dynamic, same_input, column, weight.size[0] if stride is None else stride)
    return Stage(ctypes.pointer(weight.struct), address(bias), before, after, *flags)


class Run:
    """A chain of linears, callable from any thread.

    Args:
        stages: of `stage`.
        keep: what has to live as long: weights, biases, norms.
    """

    def __init__(self, stages: Sequence[Stage], keep: Any) -> None:
        self.keep, self.count = keep, len(stages)
        self.stages = (Stage * len(stages))(*stages)
        first, last = stages[0], stages[-1]
        self.width = first.weight.contents.out if first.role == RESIDUAL else first.weight.contents.in_features
        self.residual = any(one.role == RESIDUAL for one in stages)
        self.out = 0 if last.role == RESIDUAL else last.stride
        self.isa, self.run = SETS.index(instruction_set() or "scalar"), load().deed_run

    def __call__(
        self, hidden: torch.Tensor, x: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The residual stream after the chain, and the last output; None for what the chain does not have.

        Args:
            hidden: `[..., width]` float32.
            x: `[..., in]`, what the first linear reads where it adds to `hidden`.

        Raises:
            MemoryError: no room for a few rows.
        """
        hidden = hidden.contiguous()
        after = torch.empty_like(hidden) if self.residual else None
        out = torch.empty((*hidden.shape[:-1], self.out), dtype=torch.float32) if self.out else None
        x = None if x is None else x.contiguous()
        call = Call(
            self.stages,
            self.count,
            None if x is None else x.data_ptr(),
            hidden.data_ptr(),
            None if after is None else after.data_ptr(),
            None if out is None else out.data_ptr(),
            hidden.numel() // self.width,
            torch.get_num_threads(),
        )
        if self.run(ctypes.addressof(call), self.isa):
            raise MemoryError("the native kernels found no room for a few rows")
        return after, out
