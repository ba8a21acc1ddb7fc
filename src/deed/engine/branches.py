"""Exits with a decoder layer of their own (`adapter="layer"`), with a cache.

Such a layer is a branch: it reads the states of its exit's depth, and nothing reads its output but the exit's head. Of the
rows at an exit it runs for those whose logits are wanted, on the newest position alone. Its self-attention needs keys and
values of all earlier positions at that depth, whoever asked there then or not, so these are caught up just in time: the
staircase keeps the states that the layer reads (`Staircase.branch_off`) and a stair of how far its keys and values go. Of
positions caught up nothing but keys and values is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deed.families.parts import keys_and_values

from . import positions
from .cache import StaircaseCache
from .layers import run_layer


class ExitStates:
    """What the final norm of one exit gets, of the rows asked about: its layer's output, or what the exit's own layer makes of
    that, computed for each row when it is first wanted.

    Args:
        cache: the running generation's.
        depth: of the exit, 1-based.
        rows: which rows of the batch are asked about, ascending.
        hidden: the layer's output at their newest positions, `[r, d_model]`.
        decoder_mask: `[batch rows, length]`, 1 keeps; None keeps all.
    """

    def __init__(
        self,
        cache: StaircaseCache,
        depth: int,
        rows: list[int],
        hidden: torch.Tensor,
        decoder_mask: torch.Tensor | None = None,
    ) -> None:
        self.cache, self.rows, self.hidden, self.decoder_mask = cache, rows, hidden, decoder_mask
        self.layer = cache.stairs.branches.get(depth - 1)
        self.found: torch.Tensor | None = None  # [r, d_model], of the places known
        self.known: set[int] = set()

    def of(self, at: torch.Tensor | None = None) -> torch.Tensor:
        """`[n, d_model]` of the rows at places `at` (long), None: of all. Rows of `hidden` (floating point) are also taken
        where the exit has no layer of its own.

        Raises:
            ValueError: rows of `hidden`, where it has one.
        """
        if self.layer is None:
            if at is None:
                return self.hidden
            return at if at.is_floating_point() else self.hidden[at]
        if at is not None and at.is_floating_point():
            raise ValueError(
                'this exit has a layer of its own (adapter="layer"), which needs to know the rows: query.logits_at(places)'
            )
        places = range(len(self.rows)) if at is None else at.tolist()
        missing = sorted(set(places) - self.known)
        if missing:
            made = run_branch(self.cache, self.layer, [self.rows[i] for i in missing], self.decoder_mask)
            self.known.update(missing)
            if len(missing) == len(self.rows):
                self.found = made
            else:
                if self.found is None:
                    self.found = torch.empty_like(self.hidden)
                self.found[torch.tensor(missing, device=made.device)] = made
        assert self.found is not None
        return self.found if at is None else self.found[at]


def run_branch(
    cache: StaircaseCache, number: int, rows: Sequence[int], decoder_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The output of an exit's own layer at the newest position of some rows, `[r, d_model]`.

    Args:
        cache: whose stairs hold the states of the exit's depth up to these positions.
        number: of the layer, see `Staircase.branches`.
        rows: ascending; none of them has been at this layer in this step.
        decoder_mask: `[batch rows, length]`, 1 keeps; None keeps all.
    """
    state, stairs = cache.state, cache.stairs
    assert state is not None
    plan, rows = state.plan, list(rows)
    layer = plan.branches[number - stairs.n_layers]
    if plan.parts is not None:
        earlier = stairs.earlier(number, rows)
        if earlier is not None:
            parts = plan.parts[number]
            at = None if parts.self_attn.rotate is None else positions.of_block(state, earlier, decoder_mask)
            stairs.put(earlier, *keys_and_values(parts, earlier.hidden, at))
            stairs.rise(earlier)
    # Where a layer runs by its own forward, earlier positions are computed whole.
    block = stairs.block(number, rows, plan.span_worth, plan.parts is not None)
    output = block.newest(run_layer(cache, layer, block, decoder_mask))
    stairs.rise(block)
    cache.branch_cells += block.cells
    return output if plan.recorded_layers is None else output.clone()
