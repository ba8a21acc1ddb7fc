"""Masks and position bias of a block: which positions each query attends to.

A block wider than one position needs its causal mask spelled out: given None, sdpa would align a mask of its own to the
top left and silently read the wrong keys.

Bias and causal mask are functions of positions alone, so they are kept as tables from step to step, and each block, or each
span of a packed block, cuts out the rows of its positions. A layer with a window (`DecoderFamily.window`) sees the newest
positions only; its mask hides the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Union

import torch

from .block import Block
from .staircase import Staircase

if TYPE_CHECKING:
    from .state import GenerationState

ROOM = 32  # rows of a table beyond the newest position

# What is added to scores: a tensor for a padded block, one per span for a packed one, None where there is nothing to add.
Mask = Union[torch.Tensor, "list[torch.Tensor | None]", None]


@dataclass
class _Table:
    """`values` `[1, heads or 1, hi - lo, hi]` for the positions lo..hi that may still come up in a block."""

    values: torch.Tensor | None
    lo: int
    hi: int

    def cut(self, start: int, stop: int) -> torch.Tensor | None:
        """For positions start..stop: `[1, heads or 1, stop - start, stop]`."""
        if self.values is None:
            return None
        return self.values[:, :, start - self.lo : stop - self.lo, :stop]

    def rows(self, positions: torch.Tensor, stop: int | None) -> torch.Tensor:
        """For positions `[r, width]`: `[r, heads or 1, width, stop]`. A place of padding, whose position is below the table,
        gets that of the lowest."""
        assert self.values is not None
        return self.values[0, :, :, :stop][:, (positions - self.lo).clamp(min=0)].transpose(0, 1)


def folded(state: GenerationState, stairs: Staircase, block: Block, decoder_mask: torch.Tensor | None) -> Mask:
    """All that is added to a block's self-attention scores: position bias with the causal mask folded in, and padding.

    Args:
        state: the running generation.
        stairs: of its cache.
        block: the block in work.
        decoder_mask: `[rows, length]`, 1 keeps; None keeps all.

    Returns:
        `[r or 1, heads or 1, stop - start, stop]`, or None where there is nothing to add; packed: one per span, each
        `[rows of it or 1, heads or 1, its stop - its stair, its stop]` or None.
    """
    family, like, window = state.plan.family, block.hidden, _window(state, block)
    if block.grid is not None:
        return _aligned(state, stairs, block, decoder_mask, window)
    padding = None
    if not family.has_bias:
        if decoder_mask is not None:
            return _visible(state, block, decoder_mask)
        if block.stop - block.start == 1 and window is None:
            return None
    elif decoder_mask is not None:
        padding = mask_for(state.model, padding_of(decoder_mask, block), like.dtype, bools=False)
    layer = block.layer if family.bias_per_layer else 0
    key = (layer, window)
    table = _table(state, stairs, block, key, lambda lo, hi: _causal(state.model, family, lo, hi, layer, like, window))
    if not block.packed:
        return _with_padding(table.cut(block.start, block.stop), padding)
    found = []
    for i, j, _, stair, stop in block.spans:
        mask = table.cut(stair, stop) if family.has_bias or stop - stair > 1 or window is not None else None
        found.append(_with_padding(mask, None if padding is None else padding[i:j, ..., :stop]))
    return found


def _aligned(
    state: GenerationState, stairs: Staircase, block: Block, decoder_mask: torch.Tensor | None, window: int | None
) -> torch.Tensor:
    """As `folded`, `[r, heads or 1, width, stop]`: every row cuts its positions out of the table."""
    assert block.grid is not None
    family, like = state.plan.family, block.hidden
    layer = block.layer if family.bias_per_layer else 0
    key = ("aligned", layer, window)
    made = state.tables.get(key)  # most layers of a pass need the same
    if made is not None and made[0] is block.grid and made[1] is decoder_mask and made[2].dtype == like.dtype:
        return made[2]
    make = partial(_causal, state.model, family, layer=layer, like=like, window=window)
    table = _table(state, stairs, block, (layer, window), make)
    assert table.values is not None
    mask = table.rows(block.grid.positions, block.stop)
    if decoder_mask is not None:
        padding = mask_for(state.model, padding_of(decoder_mask, block), like.dtype, bools=False)
        mask = _with_padding(mask, padding)  # type: ignore[assignment]
    state.tables[key] = (block.grid, decoder_mask, mask)
    return mask


def _visible(state: GenerationState, block: Block, decoder_mask: torch.Tensor) -> Mask:
    """Padding and causal mask where there is no bias to add them to: as Transformers makes them."""
    padding = padding_of(decoder_mask, block)

    def seen(rows: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        earlier = _in_sight(state, block, start, stop)
        return mask_for(state.model, rows if earlier is None else rows & earlier, block.hidden.dtype)

    if not block.packed:
        return seen(padding, block.start, block.stop)
    return [seen(padding[i:j, ..., :stop], stair, stop) for i, j, _, stair, stop in block.spans]


def _window(state: GenerationState, block: Block) -> int | None:
    """The window of the block's layer, None where nothing is out of its sight yet."""
    window = state.plan.windows[block.layer]
    return None if window is None or block.stop <= window else window


def _in_sight(state: GenerationState, block: Block, start: int, stop: int) -> torch.Tensor | None:
    """Which positions up to `stop` those of start..stop see, padding apart: `[stop - start, stop]` bool, None: all."""
    window = _window(state, block)
    if stop - start == 1 and window is None:
        return None
    keys = torch.arange(stop, device=block.hidden.device)
    seen = keys <= keys[start:, None]
    return seen if window is None else seen & (keys > keys[start:, None] - window)


def _with_padding(mask: torch.Tensor | None, padding: torch.Tensor | None) -> torch.Tensor | None:
    if mask is None or padding is None:
        return padding if mask is None else mask
    return (mask + padding).clamp(min=torch.finfo(mask.dtype).min)


def _table(
    state: GenerationState, stairs: Staircase, block: Block, key: Any, make: Callable[[int, int], torch.Tensor | None]
) -> _Table:
    """The table under `key`, made anew when a block lies outside it: from the lowest stair of the rows still decoding,
    below which no block will start, to some way beyond the newest position."""
    table = state.tables.get(key)
    if table is None or block.start < table.lo or block.stop > table.hi:
        lo = min(block.start, *(stairs.filled[stairs.n_layers - 1][r] for r in state.active_rows(stairs.n_rows)))
        hi = block.stop + ROOM if stairs.limit is None else max(block.stop, min(block.stop + ROOM, stairs.limit))
        table = state.tables[key] = _Table(make(lo, hi), lo, hi)
    return table


def _causal(
    model: Any, family: Any, lo: int, hi: int, layer: int, like: torch.Tensor, window: int | None
) -> torch.Tensor:
    bias = family.position_bias(model, lo, hi, layer)
    everything = torch.ones(hi - lo, hi, dtype=torch.bool, device=like.device)
    hidden = everything.triu(lo + 1)
    if window is not None:
        hidden |= everything.tril(lo - window)
    table = like.new_zeros(1, 1, hi - lo, hi) if bias is None else bias.to(like.dtype)
    return table.masked_fill(hidden, torch.finfo(like.dtype).min)


def separate(
    state: GenerationState, stairs: Staircase, block: Block, decoder_mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Mask and position bias as Transformers' own layers take them.

    Args:
        state: the running generation.
        stairs: of its cache.
        block: the block in work, not packed.
        decoder_mask: `[rows, length]`, 1 keeps; None keeps all.

    Returns:
        The mask `[rows or 1, 1, width, stop]` (None where every key is visible), and `[1, heads, width, stop]` or None.
    """
    family, visible = state.plan.family, _in_sight(state, block, block.start, block.stop)
    if visible is not None:
        visible = visible[None, None]
    if decoder_mask is not None:
        padding = padding_of(decoder_mask, block)
        visible = padding if visible is None else visible & padding
    bias = None
    if family.has_bias:
        layer = block.layer if family.bias_per_layer else 0
        make = partial(family.position_bias, state.model, layer=layer)
        bias = _table(state, stairs, block, ("bias", layer), make).cut(block.start, block.stop)
    return (None if visible is None else mask_for(state.model, visible, block.hidden.dtype)), bias


def cross(state: GenerationState, stairs: Staircase, block: Block) -> Mask:
    """What is added to a block's cross-attention scores: the encoder's mask, as `mask_for` makes it, or the family's bias
    with that folded in.

    Args:
        state: the running generation.
        stairs: of its cache.
        block: the block in work.

    Returns:
        For all rows of the batch `[rows or 1, heads or 1, width or 1, source]`, or None where all is seen; aligned: of the
        block's rows; packed: one per span, of its own rows.
    """
    mask, family = state.encoder_bias, state.plan.family
    if block.grid is not None and mask is not None and block.index is not None:
        mask = mask.index_select(0, block.index)
    if not family.has_cross_bias:
        if mask is None or not block.packed:
            return mask
        return [mask[row : row + j - i] for i, j, row, _, _ in block.spans]
    # Most layers of a step need the same mask.
    span: Any = (block.start, block.stop)
    if block.packed or block.grid is not None:
        span = (block.packed, block.spans)
    made = state.tables.get("cross rows")
    if made is not None and made[0] == span and made[1] is state.encoder_bias:
        return made[2]
    table = _table(state, stairs, block, "cross", partial(family.cross_bias, state.model))
    assert table.values is not None, "a family with has_cross_bias gives one"
    keep = mask if mask is None or mask.dtype == torch.bool else mask == 0

    def cut(start: int, stop: int, of: torch.Tensor | None) -> torch.Tensor:
        bias = table.values[:, :, start - table.lo : stop - table.lo]  # type: ignore[index]
        return bias if of is None else bias.masked_fill(~of, torch.finfo(bias.dtype).min)

    found: Mask = None
    if block.grid is not None:
        found = table.rows(block.grid.positions, None)
        if keep is not None:
            found = found.masked_fill(~keep, torch.finfo(found.dtype).min)
    elif not block.packed:
        found = cut(block.start, block.stop, keep)
    else:
        found = [
            cut(stair, stop, None if keep is None else keep[row : row + j - i])
            for i, j, row, stair, stop in block.spans
        ]
    state.tables["cross rows"] = (span, state.encoder_bias, found)
    return found


def padding_of(decoder_mask: torch.Tensor, block: Block) -> torch.Tensor:
    """Which earlier positions of a block's rows are no padding: `[r, 1, 1, stop]` bool."""
    rows = decoder_mask if block.index is None else decoder_mask.index_select(0, block.index)
    return rows[:, None, None, : block.stop].to(torch.bool)


def mask_for(model: Any, keep: torch.Tensor, dtype: torch.dtype, bools: bool = True) -> torch.Tensor:
    """`keep` in the form that the model's attention gets from Transformers: bool for sdpa; for eager 0 where kept and the
    dtype's lowest value elsewhere. They differ only for a row that keeps nothing.

    Args:
        model: a deed model, whose family says which attention its decoder runs.
        keep: any shape, True keeps.
        dtype: of numbers.
        bools: False gives numbers for sdpa too.
    """
    keep = keep.to(torch.bool)
    if bools and model.deed_family.attention(model) == "sdpa":
        return keep
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)
