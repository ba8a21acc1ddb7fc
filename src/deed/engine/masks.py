"""Masks and position bias of a block: who may look at what.

A block wider than one position needs its causal mask spelled out: given None, sdpa would align a mask of its own to the
top left and silently read the wrong keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .cache import StaircaseCache
from .staircase import Block

ROOM = 32  # positions beyond the newest that a table has rows for


@dataclass
class _Table:
    """`values` `[1, heads or 1, hi - lo, hi]` for the positions lo..hi that may still come up in a block."""

    values: torch.Tensor | None
    lo: int
    hi: int

    def cut(self, block: Block) -> torch.Tensor | None:
        if self.values is None:
            return None
        return self.values[:, :, block.start - self.lo : block.stop - self.lo, : block.stop]


def folded(
    model: Any, family: Any, cache: StaircaseCache, block: Block, decoder_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """All that is added to a block's self-attention scores: position bias with the causal mask folded in, and padding.

    Args:
        decoder_mask: `[rows, length]`, 1 keeps; None keeps all.

    Returns:
        `[r or 1, heads or 1, stop - start, stop]`, or None where there is nothing to add.
    """
    layer = block.layer if family.bias_per_layer else 0
    mask = None
    if family.has_bias or block.stop - block.start > 1:
        mask = _table(cache, block, layer, lambda lo, hi: _causal(model, family, lo, hi, layer, block.hidden)).cut(
            block
        )
    if decoder_mask is None:
        return mask
    padding = mask_for(model, padding_of(decoder_mask, block), block.hidden.dtype, bools=False)
    return padding if mask is None else (mask + padding).clamp(min=torch.finfo(mask.dtype).min)


def _table(cache: StaircaseCache, block: Block, key: Any, make: Callable[[int, int], torch.Tensor | None]) -> _Table:
    """The table under `key`, made anew when a block lies outside it: from the lowest stair of the rows still in work,
    below which no block will start, to some way beyond the newest position."""
    table = cache.tables.get(key)
    if table is None or block.start < table.lo or block.stop > table.hi:
        stairs = cache.stairs
        lo = min(block.start, *(stairs.filled[-1][r] for r in cache.live_rows()))
        hi = block.stop + ROOM if stairs.limit is None else max(block.stop, min(block.stop + ROOM, stairs.limit))
        table = cache.tables[key] = _Table(make(lo, hi), lo, hi)
    return table


def _causal(model: Any, family: Any, lo: int, hi: int, layer: int, like: torch.Tensor) -> torch.Tensor:
    bias = family.position_bias(model, lo, hi, layer)
    later = torch.ones(hi - lo, hi, dtype=torch.bool, device=like.device).triu(lo + 1)
    table = like.new_zeros(1, 1, hi - lo, hi) if bias is None else bias.to(like.dtype)
    return table.masked_fill(later, torch.finfo(like.dtype).min)


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
    if family.has_bias:
        layer = block.layer if family.bias_per_layer else 0
        make = partial(family.position_bias, model, layer=layer)
        bias = _table(cache, block, ("bias", layer), make).cut(block)
    return (None if visible is None else mask_for(model, visible, block.hidden.dtype)), bias


def cross(model: Any, family: Any, cache: StaircaseCache, block: Block) -> torch.Tensor | None:
    """What a block's scores towards the source get, for all rows of the batch: the encoder's mask, as `mask_for` makes it,
    or the family's bias with that folded in. `[rows or 1, heads or 1, width or 1, source]`, or None where all is seen."""
    mask = cache.encoder_mask
    if not family.has_cross_bias:
        return mask
    span, made = (block.start, block.stop), cache.tables.get("cross rows")
    if made is None or made[0] != span or made[1] is not mask:  # the layers of a step mostly ask for the same
        table = _table(cache, block, "cross", partial(family.cross_bias, model))
        assert table.values is not None, "a family with has_cross_bias gives one"
        bias = table.values[:, :, block.start - table.lo : block.stop - table.lo]
        if mask is not None:
            keep = mask if mask.dtype == torch.bool else mask == 0
            bias = bias.masked_fill(~keep, torch.finfo(bias.dtype).min)
        made = cache.tables["cross rows"] = (span, mask, bias)
    return made[2]


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
