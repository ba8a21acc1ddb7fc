"""Masks and position bias of a block: who may look at what.

A block wider than one position needs its causal mask spelled out: given None, sdpa would align a mask of its own to the
top left and silently read the wrong keys.
"""

from __future__ import annotations

from typing import Any

import torch

from .cache import StaircaseCache
from .staircase import Block

FIRST = 32  # positions that the first table has; it doubles


def folded(
    model: Any, family: Any, cache: StaircaseCache, block: Block, decoder_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """All that is added to a block's self-attention scores: position bias with the causal mask folded in, and padding.

    Args:
        decoder_mask: `[rows, length]`, 1 keeps; None keeps all.

    Returns:
        `[r or 1, heads or 1, width, stop]`, or None where there is nothing to add.
    """
    if cache.causal is None or cache.causal.shape[-1] < block.stop:
        cache.causal, cache.has_bias = _causal(model, family, max(2 * block.stop, FIRST), block.hidden)
    mask = None
    if cache.has_bias or block.stop - block.start > 1:
        mask = cache.causal[:, :, block.start : block.stop, : block.stop]
    if decoder_mask is None:
        return mask
    padding = mask_for(model, padding_of(decoder_mask, block), block.hidden.dtype, bools=False)
    return padding if mask is None else (mask + padding).clamp(min=torch.finfo(mask.dtype).min)


def _causal(model: Any, family: Any, length: int, like: torch.Tensor) -> tuple[torch.Tensor, bool]:
    bias = family.position_bias(model, length)
    later = torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)
    table = like.new_zeros(1, 1, length, length) if bias is None else bias.to(like.dtype)
    return table.masked_fill(later, torch.finfo(like.dtype).min), bias is not None


def separate(
    model: Any, family: Any, cache: StaircaseCache, block: Block, decoder_mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Mask and position bias as Transformers' own layers take them: `[rows or 1, 1, width, stop]` (None where every key
    is visible) and `[1, heads, width, stop]` or None."""
    visible = None
    if block.stop - block.start > 1:
        keys = torch.arange(block.stop, device=block.hidden.device)
        visible = (keys[None, :] <= keys[block.start :, None])[None, None]
    if decoder_mask is not None:
        padding = padding_of(decoder_mask, block)
        visible = padding if visible is None else visible & padding
    bias = None
    if cache.bias is None or cache.bias.shape[-1] < block.stop:
        cache.bias = family.position_bias(model, max(2 * block.stop, FIRST))
    if cache.bias is not None:
        bias = cache.bias[:, :, block.start : block.stop, : block.stop]
    return (None if visible is None else mask_for(model, visible, block.hidden.dtype)), bias


def padding_of(decoder_mask: torch.Tensor, block: Block) -> torch.Tensor:
    """Which earlier positions of a block's rows are no padding: `[r, 1, 1, stop]` bool."""
    rows = decoder_mask if block.index is None else decoder_mask.index_select(0, block.index)
    return rows[:, None, None, : block.stop].to(torch.bool)


def mask_for(model: Any, keep: torch.Tensor, dtype: torch.dtype, bools: bool = True) -> torch.Tensor:
    """`keep` in the form that the model's attention gets from Transformers: bool for sdpa; for eager 0 where kept and the
    dtype's lowest value elsewhere. They differ only for a row that keeps nothing.

    Args:
        bools: False gives numbers for sdpa too.
    """
    keep = keep.to(torch.bool)
    if bools and model.config._attn_implementation == "sdpa":
        return keep
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)
