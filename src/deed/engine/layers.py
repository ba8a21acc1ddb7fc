"""One decoder layer on a block of positions: by its parts, recorded or not, or by its own `forward`."""

from __future__ import annotations

from typing import Any

import torch

from deed.families.parts import run_parts

from . import masks, positions
from .attention import BlockAttention
from .block import Block
from .cache import StaircaseCache


def run_layer(
    cache: StaircaseCache, layer: Any, block: Block, decoder_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """One decoder layer on a block: by its parts where the family knows them, else by its own `forward`.

    Args:
        cache: takes in the block's keys and values.
        layer: the module, a layer of the decoder's or an exit's own.
        block: what it is run on.
        decoder_mask: `[rows, length]`, 1 keeps; None keeps all.

    Returns:
        Like `block.hidden`; with CUDA graphs overwritten when the layer runs again.
    """
    cache.fill_cross(block, layer)
    output = _run(cache, layer, block, decoder_mask)
    cache.stairs.branch_off(block, output)
    return output


def _run(cache: StaircaseCache, layer: Any, block: Block, decoder_mask: torch.Tensor | None) -> torch.Tensor:
    state, stairs = cache.state, cache.stairs
    assert state is not None
    plan = state.plan
    if plan.parts is None:
        return _run_itself(cache, layer, block, decoder_mask)
    self_mask = masks.folded(state, stairs, block, decoder_mask)
    attention = BlockAttention(cache, block, self_mask, masks.cross(state, stairs, block))
    parts = plan.parts[block.layer]
    at = None if parts.self_attn.rotate is None else positions.of_block(state, block, decoder_mask)
    if plan.recorded_layers is not None:
        return plan.recorded_layers[block.layer](block.hidden, attention, at)
    return run_parts(parts, block.hidden, attention, at)


def _run_itself(
    cache: StaircaseCache, layer: Any, block: Block, decoder_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """A layer by its own `forward`, which knows of one length for all rows: rows of different length one length after
    the other."""
    state, stairs = cache.state, cache.stairs
    assert state is not None
    if block.packed:
        assert block.stops is not None, "only rows of different length are packed where layers run by themselves"
        outputs: dict[int, torch.Tensor] = {}  # [its cells, d_model] by row
        for stop in sorted(set(block.stops)):
            part = stairs.block(block.layer, [r for r, s in zip(block.rows, block.stops, strict=True) if s == stop])
            output = _run_itself(cache, layer, part, decoder_mask)
            stairs.padding_cells += len(part.rows) * (stop - part.start) - part.cells
            for i, r in enumerate(part.rows):
                outputs[r] = output[i, part.stairs[i] - part.start :]
        return torch.cat([outputs[r] for r in block.rows])[None]
    mask, bias = masks.separate(state, stairs, block, decoder_mask)
    cross_mask = masks.cross(state, stairs, block)
    assert not isinstance(cross_mask, list)
    if cross_mask is not None and cross_mask.shape[0] > 1 and block.index is not None:
        cross_mask = cross_mask.index_select(0, block.index)
    encoded = state.encoder_hidden  # not used where keys and values are read from the cache
    at = positions.of_block(state, block, decoder_mask)
    cache.block = block
    output = state.plan.family.run(layer, block.hidden, mask, bias, encoded, cross_mask, cache, at)
    cache.block = None
    return output
