"""Where new tokens and the cells of a block stand, `[1 or rows, q]` long: one row of positions where all rows share them.

A row's positions count from its first token. Where the decoder's mask hides tokens (left-padded prompts) and the family
says so (`positions_from_mask`), they count what the mask keeps, as the model's own `generate()` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .block import Block
from .staircase import Staircase

if TYPE_CHECKING:
    from .state import GenerationState


def of_tokens(
    state: GenerationState,
    stairs: Staircase,
    new: int,
    rows: list[int] | None = None,
    decoder_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Positions of `new` tokens that are about to be appended, `[1 or len(rows), new]`.

    Args:
        state: the running generation.
        stairs: of its cache, as it is before.
        new: tokens to each row.
        rows: which rows get them; None: all.
        decoder_mask: `[batch rows, longest length with the new tokens]`, 1 keeps; None keeps all.
    """
    if rows is None and decoder_mask is None and not stairs.ragged:
        return state.plan.positions(stairs.length, stairs.length + new)
    lengths = stairs.lengths if rows is None else [stairs.lengths[r] for r in rows] if stairs.lengths else []
    counted = _counted(state, decoder_mask)
    if counted is None and (not lengths or min(lengths) == max(lengths)):
        start = lengths[0] if lengths else 0
        return state.plan.positions(start, start + new)
    device = state.encoder_hidden.device
    if counted is None:
        return torch.tensor(lengths, device=device)[:, None] + state.plan.positions(0, new)
    lengths = lengths or [0] * counted.shape[0]
    at = rows if rows is not None and len(rows) < counted.shape[0] else range(len(lengths))
    return torch.stack([counted[r, n : n + new] for r, n in zip(at, lengths, strict=True)])


def of_block(state: GenerationState, block: Block, decoder_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Positions of a block's cells: `[1, stop - start]`, or a row for each of the block's where the mask shifts them;
    aligned: `[r, width]`; packed: `[1, cells]`.

    Args:
        state: the running generation.
        block: the block in work.
        decoder_mask: as in `of_tokens`, but with the newest tokens in the block.
    """
    counted = _counted(state, decoder_mask)
    if block.grid is not None:
        if counted is None:
            return block.grid.positions
        return (counted if block.index is None else counted.index_select(0, block.index)).gather(
            1, block.grid.positions
        )
    if not block.packed:
        if counted is None:
            return state.plan.positions(block.start, block.stop)
        return (counted if block.index is None else counted.index_select(0, block.index))[:, block.start : block.stop]
    made = state.tables.get("cell positions")  # most layers of a step ask for the same
    if made is not None and made[0] == block.spans and made[1] is counted:
        return made[2]
    found = []
    for i, j, row, stair, stop in block.spans:
        if counted is None:
            found.append(state.plan.positions(stair, stop)[0].repeat(j - i))
        else:
            found.append(counted[row : row + j - i, stair:stop].flatten())
    positions = torch.cat(found)[None]
    state.tables["cell positions"] = (block.spans, counted, positions)
    return positions


def _counted(state: GenerationState, decoder_mask: torch.Tensor | None) -> torch.Tensor | None:
    """`[rows, length]`: the positions of what the mask keeps, 0 for what it hides; None where every row counts from 0."""
    if decoder_mask is None or not state.plan.family.positions_from_mask:
        return None
    made = state.tables.get("counted")
    if made is None or made[0] is not decoder_mask:
        keep = decoder_mask.to(torch.long)
        made = state.tables["counted"] = (decoder_mask, (keep.cumsum(-1) - 1).masked_fill(keep == 0, 0))
    return made[1]
