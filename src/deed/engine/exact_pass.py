"""The two passes of exact decoding: drafting, up to the exits, and verifying, up to the last layer.

Both run the staircase's pending blocks as a step does. A drafting pass stops where its rows are confident; what a verifying
pass adds is the catch-up that the staircase owes in any case, and the head on all positions that it completes. Call them in
inference mode, as `decode_step` is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from deed.policies.query import ExitQuery

from . import positions
from .block import Block, newest_cells
from .cache import StaircaseCache
from .layers import run_layer
from .step import exit_query

# Of the rows at an exit (their numbers), which exit; whether the others go on to the next layer (else they wait there for the
# verifying pass).
Ask = Callable[[ExitQuery, "list[int]"], "tuple[list[bool], bool]"]


def feed(
    cache: StaircaseCache, ids: list[list[int]], rows: list[int], decoder_mask: torch.Tensor | None = None
) -> None:
    """Append tokens to rows.

    Args:
        cache: whose generation has begun.
        ids: `[rows][q]`.
        rows: whose they are, ascending.
        decoder_mask: `[batch rows, length]`, 1 keeps; None keeps all.
    """
    state, stairs = cache.state, cache.stairs
    assert state is not None
    tokens = torch.tensor(ids, device=state.encoder_hidden.device)
    everyone = len(rows) == len(state.sources)
    at = positions.of_tokens(state, stairs, tokens.shape[1], None if everyone else rows, decoder_mask)
    stairs.extend(state.plan.embed(tokens, at), None if everyone else rows)


def fill_source(cache: StaircaseCache, rows: list[int]) -> None:
    """Compute the rows' keys and values of the source at every layer, exits' own among them: all of them will be needed."""
    state, stairs = cache.state, cache.stairs
    assert state is not None and stairs.hidden is not None
    for i, layer in enumerate([*state.plan.layers, *state.plan.branches]):
        cache.fill_cross(Block(i, rows, stairs.n_rows, [0] * len(rows), 0, 1, stairs.hidden), layer)


def draft_pass(
    cache: StaircaseCache,
    rows: list[int],
    asked: frozenset[int],
    ask: Ask,
    decoder_mask: torch.Tensor | None = None,
    allowed: Callable[[list[int]], torch.Tensor | None] | None = None,
    history: bool = False,
) -> list[int]:
    """Run the exits' layers on the rows' newest positions until each row exits or waits.

    Args:
        cache: whose rows have been fed.
        rows: who drafts, ascending.
        asked: depths of the exits to ask, the last not among them.
        ask: see `Ask`.
        decoder_mask: as in `feed`.
        allowed: which tokens constraints leave open to some rows, `[r, vocab]` bool or None.
        history: whether the exit policy wants the tokens of the exits before.

    Returns:
        The rows that wait.
    """
    state, stairs = cache.state, cache.stairs
    assert state is not None
    plan, previous_tokens = state.plan, []  # type: ignore[var-annotated]
    for depth in range(1, max(asked, default=0) + 1):
        block = stairs.block(depth - 1, rows, plan.span_worth, plan.parts is not None)
        output = run_layer(cache, plan.layers[depth - 1], block, decoder_mask)
        if depth not in asked:
            stairs.widen(block, output)
            continue
        query = exit_query(cache, block, output, depth, None, previous_tokens, decoder_mask)
        query.allowed = None if allowed is None else allowed(rows)
        exits, go_on = ask(query, rows)
        stairs.widen(block, output)
        staying = [i for i, leaves in enumerate(exits) if not leaves]
        if history and staying:
            said = query.masked_logits.argmax(-1)  # as in a step, whatever processors make of it
            at = torch.tensor(staying, device=said.device)
            previous_tokens = [t[at] for t in [*previous_tokens, said]]
        rows = [rows[i] for i in staying]
        if not rows or not go_on:
            break
    return rows


def verify_pass(
    cache: StaircaseCache, rows: list[int], wanted: list[int], decoder_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Complete the rows up to the last layer.

    Args:
        cache: whose rows have been fed; each lacks at the last layer `wanted` positions, or more.
        rows: ascending.
        wanted: of how many of its newest positions each row's logits are wanted.
        decoder_mask: as in `feed`.

    Returns:
        The last layer's logits `[cells, vocab]`, row after row.
    """
    state, stairs = cache.state, cache.stairs
    assert state is not None
    plan, n_layers = state.plan, len(state.plan.layers)
    hidden = None
    for depth, layer in enumerate(plan.layers, 1):
        filled = stairs.filled[depth - 1]
        lacking = [r for r in rows if filled[r] < stairs.lengths[r]]
        if not lacking:
            continue
        block = stairs.block(depth - 1, lacking, plan.span_worth, plan.parts is not None)
        output = run_layer(cache, layer, block, decoder_mask)
        if depth == n_layers:
            assert len(lacking) == len(rows), "a row has nothing to verify"
            hidden = newest_cells(block, output, wanted)
        stairs.widen(block, output)
    assert hidden is not None
    return plan.exits.logits(n_layers, hidden)  # type: ignore[no-any-return]
