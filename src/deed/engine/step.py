"""One decoding step: run the layers, check the exits, and let confident rows exit.

This is the only module that knows of rows and layers at once. For each layer the staircase hands out the pending block,
the family runs its layer on it, the staircase takes the result; at an exit the policy says which rows leave. A layer below
which every row has left is not run. docs/method.md tells the same in prose.
"""

from __future__ import annotations

from typing import Any

import torch

from deed.policies.measures import needs_history
from deed.policies.policy import decide
from deed.policies.query import ExitDecision, ExitQuery

from . import positions
from .block import Block, newest_cells
from .branches import ExitStates
from .cache import StaircaseCache
from .layers import run_layer
from .state import GenerationState, Plan


@torch.inference_mode()  # a sixth faster than no_grad at small widths
def decode_step(
    cache: StaircaseCache,
    decoder_input_ids: torch.Tensor,
    decoder_mask: torch.Tensor | None = None,
    rows: list[int] | None = None,
) -> torch.Tensor:
    """Logits `[rows, 1, vocab]` of the token after `decoder_input_ids`, each row's from the exit it left by.

    They are inference tensors: copy them before writing into them.

    Args:
        cache: a cache whose generation has begun; gains the new positions, its state one entry of depths.
        decoder_input_ids: `[rows, q]`, appended to what the rows have.
        decoder_mask: `[batch rows, longest length so far]`, 1 keeps; None keeps all.
        rows: which rows of the batch these are (ascending); the others wait. None: all.
    """
    state = cache.state
    assert state is not None, "StaircaseCache.begin() first"
    answers = _run_layers(cache, decoder_input_ids, decoder_mask, rows)
    logits = answers.logits(state.plan, state.encoder_hidden)  # [batch rows, vocab]
    _count(state, answers, rows)
    return logits[:, None] if rows is None else logits[rows, None]


@torch.inference_mode()
def decode_drafting(
    cache: StaircaseCache, decoder_input_ids: torch.Tensor, drafts: list[int], rows: list[int] | None = None
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """As `decode_step`, and what the last layer says of positions that were drafted, of rows that reach it.

    Args:
        cache: see `decode_step`.
        decoder_input_ids: see `decode_step`.
        drafts: `[batch rows]`, how many of a row's positions before the newest drafts came from.
        rows: see `decode_step`.

    Returns:
        Logits `[rows, 1, vocab]`, and by row those of its drafts, `[drafts, vocab]`.
    """
    state = cache.state
    assert state is not None, "StaircaseCache.begin() first"
    answers = _run_layers(cache, decoder_input_ids, None, rows, drafts)
    logits = answers.logits(state.plan, state.encoder_hidden)
    _count(state, answers, rows)
    return (logits[:, None] if rows is None else logits[rows, None]), answers.verdicts


@torch.inference_mode()
def decode_greedily(
    cache: StaircaseCache, decoder_input_ids: torch.Tensor, decoder_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """As `decode_step`, but the best token of each row, `[rows, 1]` long; any for rows that have finished.

    Args:
        cache: see `decode_step`.
        decoder_input_ids: see `decode_step`.
        decoder_mask: see `decode_step`.
    """
    state = cache.state
    assert state is not None, "StaircaseCache.begin() first"
    answers = _run_layers(cache, decoder_input_ids, decoder_mask, None)
    tokens = answers.tokens(state.plan, state.encoder_hidden)
    _count(state, answers, None)
    return tokens[:, None]


def _count(state: GenerationState, answers: Answers, rows: list[int] | None) -> None:
    state.checked_rows += answers.computed_rows
    state.record(answers.depths, rows)


def _run_layers(
    cache: StaircaseCache,
    decoder_input_ids: torch.Tensor,
    decoder_mask: torch.Tensor | None,
    rows: list[int] | None,
    drafts: list[int] | None = None,
) -> Answers:
    """A step up to its answers; arguments as of `decode_step` and `decode_drafting`."""
    state, stairs = cache.state, cache.stairs
    assert state is not None, "StaircaseCache.begin() first"
    plan, policy = state.plan, state.policy
    if decoder_mask is not None and bool(decoder_mask.all()):
        decoder_mask = None
    at = positions.of_tokens(state, stairs, decoder_input_ids.shape[1], rows, decoder_mask)  # [1 or rows, q]
    stairs.extend(plan.embed(decoder_input_ids, at), rows)  # [rows, q, d_model]

    active_rows = state.active_rows(stairs.n_rows)
    if rows is not None:
        active_rows = [r for r in rows if r in set(active_rows)]
    allowed = state.allowed()  # [rows, vocab] or None
    previous_tokens: list[torch.Tensor] = []  # each [active rows]: what the exits asked so far would say
    answers = Answers(stairs.n_rows)
    history, last = needs_history(policy), len(plan.layers)
    asked = plan.exit_of if getattr(policy, "exits_early", True) else {last: plan.exit_of[last]}

    for depth, layer in enumerate(plan.layers, 1):
        if not active_rows:
            break
        # The positions that these rows lack here.
        block = stairs.block(depth - 1, active_rows, plan.span_worth, plan.parts is not None)
        output = run_layer(cache, layer, block, decoder_mask)  # as block.hidden: [r, positions, d_model]
        if depth not in asked:
            stairs.widen(block, output)
            continue
        query = exit_query(cache, block, output, depth, allowed, previous_tokens, decoder_mask)
        exiting, decision = exiting_rows(policy, query)  # places in active_rows
        answers.take(query, exiting, decision, active_rows)
        if drafts is not None and depth == last:
            answers.verify(plan, block, output, drafts)
        stairs.widen(block, output)  # these positions have reached this depth, whichever rows exit
        if history and len(exiting) < len(active_rows):
            token = query.masked_logits.argmax(-1)
            staying = torch.tensor(_without(range(len(active_rows)), exiting), device=token.device)
            previous_tokens = [t[staying] for t in [*previous_tokens, token]]
        if exiting:
            active_rows = _without(active_rows, exiting)

    return answers


def exit_query(
    cache: StaircaseCache,
    block: Block,
    output: torch.Tensor,
    depth: int,
    allowed: torch.Tensor | None,
    previous_tokens: list[torch.Tensor],
    decoder_mask: torch.Tensor | None = None,
) -> ExitQuery:
    """The query for the policy at the exit at `depth`.

    Args:
        cache: of the running generation.
        block: whose rows are asked about.
        output: the layer's, like `block.hidden`.
        depth: 1-based.
        allowed: `[batch rows, vocab]` bool or None.
        previous_tokens: see `ExitQuery`.
        decoder_mask: as of `decode_step`.
    """
    state = cache.state
    assert state is not None
    exits, rows = state.plan.exits, block.rows
    hidden = block.newest(output)  # [r, d_model]
    states = ExitStates(cache, depth, rows, hidden, decoder_mask)
    return ExitQuery(
        depth=depth,
        exit_index=state.plan.exit_of[depth],
        is_last=depth == len(state.plan.layers),
        step=state.step,
        rows=state.plan.numbers(rows, block.n_rows, hidden.device),
        hidden=hidden,
        previous=block.newest(block.hidden) if depth > 1 else None,
        head=lambda at=None: exits.logits(depth, states.of(at)),
        allowed=None if allowed is None else allowed[rows],
        previous_tokens=previous_tokens,
        steps=None if state.steps is None else [state.steps[r] for r in rows],
        features=lambda at=None: exits.features(depth, states.of(at)),
    )


def exiting_rows(policy: Any, query: ExitQuery) -> tuple[list[int], ExitDecision | None]:
    """Indices of the exiting rows and the policy's decision; all rows at the last exit."""
    if query.is_last:
        return list(range(len(query.hidden))), None
    decision = decide(policy, query)
    return [i for i, leaves in enumerate(decision.leave.tolist()) if leaves], decision


class Answers:
    """The logits that the rows of a step exited with.

    Args:
        n_rows: rows of the batch.

    Attributes:
        depths: `[rows]`, 0 for a row that gave no token.
        computed_rows: rows whose logits were computed, be it only to find out.
        verdicts: see `decode_drafting`; complete once `logits` was called.
    """

    def __init__(self, n_rows: int) -> None:
        self.depths = [0] * n_rows
        self.verdicts: dict[int, torch.Tensor] = {}
        self._drafted: list[tuple[int, int]] = []  # rows, and how many of their drafts are verified
        self._drafts: torch.Tensor | None = None  # what the head gets of these
        self.computed_rows = 0
        self._known: list[tuple[list[int], torch.Tensor]] = []  # rows and their logits [n, vocab]
        # Rows whose logits were not needed yet, whether they left before the last exit, and their heads' inputs.
        self._deferred: list[tuple[list[int], bool, torch.Tensor]] = []

    def take(
        self, query: ExitQuery, exiting: list[int], decision: ExitDecision | None, active_rows: list[int]
    ) -> None:
        """Take note of an exit.

        Args:
            query: what was asked.
            exiting: the exiting rows, as indices into `active_rows`.
            decision: the policy's; None at the last exit.
            active_rows: whom it was about.
        """
        if decision is not None:
            self.computed_rows += decision.computed_rows
        if not exiting:
            return
        rows = [active_rows[i] for i in exiting]
        for r in rows:
            self.depths[r] = query.depth
        logits = None if decision is None else decision.logits_of(exiting)
        if logits is not None:
            self._known.append((rows, logits))
            return
        assert query.features is not None
        everyone = len(exiting) == len(active_rows)
        features = query.features(None if everyone else torch.tensor(exiting, device=query.hidden.device))
        self._deferred.append((rows, not query.is_last, features))

    def verify(self, plan: Plan, block: Block, output: torch.Tensor, drafts: list[int]) -> None:
        """Take note of drafted positions that have reached the last layer.

        Args:
            plan: its exits.
            block: of the last layer.
            output: that layer's, like `block.hidden`.
            drafts: see `decode_drafting`.
        """
        self._drafted = [(r, drafts[r]) for r in block.rows if drafts[r]]
        if self._drafted:
            cells = newest_cells(block, output, [drafts[r] + 1 for r in block.rows])
            each = cells.split([drafts[r] + 1 for r in block.rows])
            drafted = torch.cat([x[:-1] for x in each])  # the newest are asked in any case
            self._drafts = plan.exits.features(len(plan.layers), drafted)

    def logits(self, plan: Plan, like: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab]`, any finite value for rows that gave no token. Deferred rows share one product: a head takes as
        long to read as some layers."""
        for rows, by_draft, features in self._waiting(plan):
            if self._drafts is None or by_draft:
                found = plan.exits.logits_of(features, by_draft)
            else:  # whoever is verified is among those that wait for the model's own head
                found = plan.exits.logits_of(torch.cat([features, self._drafts]))
                found, verdicts = found.split([len(features), len(self._drafts)])
                sizes = [n for _, n in self._drafted]
                self.verdicts = {r: x for (r, _), x in zip(self._drafted, verdicts.split(sizes), strict=True)}
            self._known.append((rows, found))
        dtype = self._known[0][1].dtype if self._known else torch.float32
        return self._gathered(self._known, (plan.vocab,), dtype, like)

    def tokens(self, plan: Plan, like: torch.Tensor) -> torch.Tensor:
        """`[rows]` long: the best token of each, as `logits` has it; 0 for rows that gave none."""
        known = [(rows, logits.to(torch.float32).argmax(-1)) for rows, logits in self._known]
        for rows, by_draft, features in self._waiting(plan):
            if plan.greedy_head is None or by_draft:
                known.append((rows, plan.exits.logits_of(features, by_draft).float().argmax(-1)))
            else:
                known.append((rows, plan.greedy_head.best(features)))
        return self._gathered(known, (), torch.long, like)

    def _waiting(self, plan: Plan) -> list[tuple[list[int], bool, torch.Tensor]]:
        """Of the deferred rows of each head: their numbers, whether it is the draft head, what it gets `[n, d_model]`."""
        groups: dict[bool, tuple[list[int], list[torch.Tensor]]] = {}
        for rows, early, features in self._deferred:
            of_head, parts = groups.setdefault(early and plan.exits.draft is not None, ([], []))
            of_head += rows
            parts.append(features)
        self.computed_rows += sum(len(rows) for rows, _ in groups.values())
        return [(rows, by, parts[0] if len(parts) == 1 else torch.cat(parts)) for by, (rows, parts) in groups.items()]

    def _gathered(
        self,
        known: list[tuple[list[int], torch.Tensor]],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        like: torch.Tensor,
    ) -> torch.Tensor:
        """`[rows, *shape]` of what is known of some rows each."""
        n_rows = len(self.depths)
        if len(known) == 1 and known[0][0] == list(range(n_rows)):
            return known[0][1]
        whole = torch.zeros(n_rows, *shape, dtype=dtype, device=like.device)
        for rows, values in known:
            whole[rows] = values
        return whole


def _without(rows: Any, places: list[int]) -> list[int]:
    gone = set(places)
    return [r for i, r in enumerate(rows) if i not in gone]
