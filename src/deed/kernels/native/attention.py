"""Attention of a few queries by the native library: keys and values are read once, and a query in a block gives bit for bit
what it gives alone (`attention.h`)."""

from __future__ import annotations

import ctypes
import functools

import torch

from . import SETS, Attention, instruction_set, load

QUERIES = 32  # of a row, at most: PyTorch's own is made for more


@functools.cache
def available() -> bool:
    """Whether the library is there and not switched off (`DEED_NATIVE`)."""
    return instruction_set() is not None


def attends(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether the library knows this: float32 on the CPU, few queries, a mask of numbers or none.

    Args:
        q: `[rows, heads, queries, head_dim]`.
        keys: `[rows, kv heads, keys, head_dim]`.
        values: like `keys`.
        mask: what is added to the scores, `[1 or rows, 1 or heads, 1 or queries, keys]`, or None.
    """
    dim = q.shape[3]
    if (
        q.dtype != torch.float32
        or q.device.type != "cpu"
        or q.shape[2] > QUERIES
        or dim % 16
        or values.shape[3] != dim
    ):
        return False
    tensors = (q, keys, values) if mask is None else (q, keys, values, mask)
    fits = keys.shape[2] > 0 and (mask is None or mask.shape[3] == keys.shape[2])
    return fits and available() and all(x.dtype == torch.float32 and x.stride(3) == 1 for x in tensors)


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """`softmax(scale q keys' + mask) values`, `[rows, heads, queries, head_dim]`, of what `attends` says it knows.

    Args:
        q: see `attends`.
        keys: see `attends`.
        values: see `attends`.
        mask: see `attends`.
        scale: factor on the scores.

    Raises:
        MemoryError: no room for the scores of a few queries.
    """
    rows, heads, queries, dim = q.shape
    out = torch.empty(rows, queries, heads, dim)
    masked = (0, 0, 0)
    if mask is not None:
        masked = tuple(0 if mask.size(i) == 1 else mask.stride(i) for i in range(3))  # type: ignore[assignment]
    call = Attention(
        q.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        None if mask is None else mask.data_ptr(),
        out.data_ptr(),
        *(rows, heads, keys.shape[1], queries, keys.shape[2], dim),
        *q.stride()[:3],
        *keys.stride()[:3],
        *values.stride()[:3],
        *masked,
        torch.get_num_threads(),
        scale,
    )
    if load().deed_attend(ctypes.addressof(call), SETS.index(instruction_set() or "scalar")):
        raise MemoryError("the native kernels found no room for the scores of a few queries")
    return out.transpose(1, 2)
