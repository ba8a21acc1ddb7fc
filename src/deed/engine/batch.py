"""`RunningBatch`: rows of different requests that decode together, join between two steps and leave at their own end.

A row joins before its first token: its prompt waits as pending positions of the staircase, which the next step computes with
everyone's newest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deed.exits.branches import branches_of
from deed.policies import policy as policies
from deed.policies.mixed import MixedPolicy
from deed.policies.policy import ExitPolicy

from . import positions
from .cache import StaircaseCache
from .drafting import DraftPolicy, Drafts, go_up_together
from .row_room import held_bytes, order_without
from .state import GenerationState, Plan
from .step import decode_drafting


@dataclass
class NewRow:
    """A row about to join.

    Attributes:
        encoder_outputs: of this row alone.
        encoder_mask: `[1, source]`, 1 keeps; None keeps all.
        prompt: decoder ids.
        policy: decides where it exits.
        max_length: of its tokens, prompt included.
        allowed: gives `[1, vocab]` bool, the tokens that constraints leave open at this row's next step, for
            `confidence_over="allowed"`; None: nothing constrains.
        drafts: of an exact row, whose policy they are then.
    """

    encoder_outputs: Any
    encoder_mask: torch.Tensor | None
    prompt: list[int]
    policy: ExitPolicy
    max_length: int
    allowed: Callable[[], torch.Tensor] | None = None
    drafts: Drafts | None = None


class RunningBatch:
    """Rows that decode together.

    Args:
        model: a deed model, which does not change while there are batches of it.
        plan: of an earlier batch; None: looked up for the first row.
    """

    def __init__(self, model: Any, plan: Plan | None = None) -> None:
        self.model, self.plan = model, plan
        self.cache: StaircaseCache | None = None
        self._allowed: list[Callable[[], torch.Tensor] | None] = []
        self._sources: list[int] = []  # lengths
        self._drafts: list[Drafts | None] = []

    def __len__(self) -> int:
        return 0 if self.cache is None else self.cache.stairs.n_rows

    @property
    def state(self) -> GenerationState:
        """The running generation's."""
        assert self.cache is not None and self.cache.state is not None, "no rows"
        return self.cache.state

    @torch.inference_mode()
    def add(self, row: NewRow) -> None:
        """Let a row join, as the last.

        Raises:
            ValueError: it cannot share a batch with those that are there; nothing has changed then.
        """
        layers = len(self.model.deed_family.layers(self.model))
        own = policies.begin(row.policy, 1) if row.drafts is None else DraftPolicy([row.drafts])
        policy = MixedPolicy([own], [0])
        cache = StaircaseCache(layers, policy, capacity=row.max_length)
        options = {"encoder_mask": row.encoder_mask, "max_length": row.max_length, "plan": self.plan}
        state = cache.begin(self.model, row.encoder_outputs, **options)
        self.plan = self.plan or state.plan
        cache.make_rows()
        source = state.encoder_hidden.shape[1]
        if len(row.prompt) > 1:
            ids = torch.tensor([row.prompt[:-1]], device=state.encoder_hidden.device)
            at = positions.of_tokens(state, cache.stairs, ids.shape[1], [0])
            cache.stairs.extend(state.plan.family.embed(self.model, ids, at), [0])
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.join(cache)
        self._allowed.append(row.allowed)
        self._sources.append(source)
        self._drafts.append(row.drafts)
        self.state.row_allowed = self._open_tokens if any(self._allowed) else None

    def leave(self, gone: set[int]) -> list[int]:
        """Let rows leave. The last ones take their places, so that little is moved; when all have left, all memory is given
        back, and where only short sources are left, what the long ones took.

        Args:
            gone: their numbers.

        Returns:
            The rows that are left, by their old numbers.
        """
        order = order_without(len(self), gone)
        if not order:
            self.cache, self._allowed, self._sources, self._drafts = None, [], [], []
        elif gone:
            assert self.cache is not None
            self.cache.keep(order)
            self._allowed = [self._allowed[r] for r in order]
            self._sources = [self._sources[r] for r in order]
            self._drafts = [self._drafts[r] for r in order]
            longest = max(self._sources)
            if 2 * longest <= self.state.encoder_hidden.shape[1] and not self.state.plan.family.has_cross_bias:
                self.cache.shorten_sources(longest)
            self.state.row_allowed = self._open_tokens if any(self._allowed) else None
        return order

    def step(self, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int], dict[int, torch.Tensor]]:
        """Decode one token of every row.

        Args:
            tokens: each row's newest, be it a draft.

        Returns:
            Logits `[rows, vocab]` (an inference tensor), depths `[rows]`, and by row the last layer's logits of drafts that
            are verified, `[drafts, vocab]`.
        """
        assert self.cache is not None
        go_up_together([drafts for drafts in self._drafts if drafts is not None])
        ids = torch.tensor(tokens, device=self.state.encoder_hidden.device)[:, None]
        logits, verdicts = self._unharmed(ids, None)
        return logits[:, 0], self.state.depths.pop(), verdicts

    def step_one(self, row: int, token: int) -> tuple[torch.Tensor, int, dict[int, torch.Tensor]]:
        """Decode one token of one row, the others wait; after a `step` that raised.

        Args:
            row: its number.
            token: its newest.

        Returns:
            As `step`: logits `[1, vocab]`, the depth, and verdicts.
        """
        assert self.cache is not None
        ids = torch.tensor([[token]], device=self.state.encoder_hidden.device)
        logits, verdicts = self._unharmed(ids, [row])
        return logits[:, 0], self.state.depths.pop()[row], verdicts

    def rollback(self, gone: dict[int, int]) -> None:
        """Forget rows' newest positions: drafts that do not stand.

        Args:
            gone: how many, by row.
        """
        if any(gone.values()):
            assert self.cache is not None
            self.cache.stairs.rollback([gone.get(r, 0) for r in range(len(self))])

    def _unharmed(self, ids: torch.Tensor, rows: list[int] | None) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """A step that leaves every row as long as it was where it raises. What it had computed of earlier positions stays:
        stairs say how far."""
        assert self.cache is not None
        stairs = self.cache.stairs
        before = list(stairs.lengths)
        drafts = [0 if d is None else len(d.tokens) for d in self._drafts]
        try:
            return decode_drafting(self.cache, ids, drafts, rows)
        except Exception:
            stairs.rollback([now - then for now, then in zip(stairs.lengths, before, strict=True)])
            raise

    def _open_tokens(self) -> torch.Tensor:
        state = self.state
        everything = torch.ones(len(self), state.plan.vocab, dtype=torch.bool, device=state.encoder_hidden.device)
        for r, allowed in enumerate(self._allowed):
            if allowed is not None:
                everything[r] = allowed()[0]
        return everything

    @property
    def cache_bytes(self) -> int:
        """Bytes that keys, values, states and sources take."""
        if self.cache is None:
            return 0
        stairs, state = self.cache.stairs, self.state
        tensors = [*stairs.keys, *stairs.values, *self.cache.cross_keys, *self.cache.cross_values]
        tensors += [*stairs.branch_hidden, stairs.hidden, state.encoder_hidden, state.encoder_bias, state.encoder_keep]
        return sum(held_bytes(x) for x in tensors)


def row_bytes(model: Any, source: int, length: int) -> int:
    """Bytes that one row's keys, values and states take, at its full length and through all layers.

    Args:
        model: a deed model.
        source: positions of its source.
        length: tokens, prompt included.
    """
    family = model.deed_family
    more = len(branches_of(model))
    layers, width = len(family.layers(model)) + more, family.d_model(model)
    heads, head_dim = family.heads(model)
    size = torch.finfo(model.dtype).bits // 8
    return size * (2 * layers * heads * head_dim * (source + length) + width * (source + (1 + more) * length))
