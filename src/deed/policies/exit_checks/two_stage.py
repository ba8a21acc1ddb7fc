"""A check in two stages: an approximate head first, the exact head only for the rows which might leave by it.

A row leaves only if the policy, given the exact logits, says so: it never leaves where the plain check would not let it.
Where the approximate head wrongly says no, the row goes deeper: that costs time, not quality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import torch

from ..measures import needs_history
from ..policy import ExitPolicy, begin, decide, join, keep
from ..query import ExitDecision, ExitQuery


@dataclass(frozen=True)
class Approximation:
    """What an approximate head gives.

    Attributes:
        logits: `[r, vocab]`.
        refined: `[r, k]` long, tokens whose logits are exact after all; None: none.
        error: `[r]`, a bound on how far other logits are from the exact head's, and `rounding` one for the refined ones;
            None where no bound is known.
    """

    logits: torch.Tensor
    refined: torch.Tensor | None = None
    error: torch.Tensor | None = None
    rounding: torch.Tensor | None = None


@dataclass
class ApproximateQuery(ExitQuery):
    """The same query with approximate logits, computed on first access."""

    approximate: Callable[[], Approximation] | None = None

    @cached_property
    def approximation(self) -> Approximation:
        """What the approximate head gives for this query."""
        assert self.approximate is not None
        return self.approximate()

    @cached_property
    def logits(self) -> torch.Tensor:  # type: ignore[override]
        """`[r, vocab]` approximate logits."""
        return self.approximation.logits


class ApproximateHead(Protocol):
    """A cheap stand-in for an exit's exact head.

    Attributes:
        equals_plain: tokens and depths are those of the plain check (else rows may leave later, see the class).
    """

    equals_plain: bool

    def begin(self) -> ApproximateHead:
        """The head for one generation; with a state of its own if it has any."""
        ...

    def serves(self, query: ExitQuery) -> bool:
        """Whether there are approximate logits for this exit now; where not, it is checked plainly."""
        ...

    def approximation(self, query: ExitQuery) -> Approximation:
        """Approximate logits of the query's rows."""
        ...

    def policy(self, policy: ExitPolicy) -> ExitPolicy:
        """The policy for approximate logits: decides which rows might leave."""
        ...

    def observe(self, query: ExitQuery, decision: ExitDecision) -> None:
        """Receives the decision of every exit."""
        ...


QUERY_FIELDS = tuple(f.name for f in fields(ExitQuery))


class TwoStagePolicy:
    """`policy`, asked on the logits of `head` first. An `ExitPolicy` itself.

    State is that of one generation: `generate()` works with what `begin` gives, so one object may be used many times and by
    several threads.

    Attributes:
        screened_rows: rows whose approximate logits were computed.
        confirmed_rows: those of them for which the exact head was run.

    Raises:
        ValueError: the policy's measure needs every exit's token (patience).
    """

    needs_history = False

    def __init__(self, policy: ExitPolicy, head: ApproximateHead) -> None:
        if needs_history(policy):
            raise ValueError("a measure that needs every exit's token (patience) has to be checked plainly")
        self.policy, self.head = policy, head
        self.first = head.policy(policy)
        self.exits_early = policy.exits_early
        self.screened_rows = self.confirmed_rows = 0

    def begin(self, n_rows: int) -> TwoStagePolicy:
        """A fresh copy for a generation of `n_rows` decoder rows."""
        return type(self)(begin(self.policy, n_rows), self.head.begin())

    def keep(self, rows: list[int]) -> TwoStagePolicy:
        """For some of its rows; its counts go on."""
        return self._with(keep(self.policy, rows))

    def join(self, other: ExitPolicy, n_rows: int, n_other: int) -> TwoStagePolicy:
        """For its rows and, after them, those of `other`.

        Args:
            other: of the rows that join.
            n_rows: how many this one decides for.
            n_other: how many join.

        Raises:
            ValueError: `other` has another approximate head.
        """
        if not isinstance(other, TwoStagePolicy) or type(other.head) is not type(self.head):
            raise ValueError("rows of one batch need the same exit check")
        return self._with(join(self.policy, other.policy, n_rows, n_other))

    def _with(self, policy: ExitPolicy) -> TwoStagePolicy:
        made = type(self)(policy, self.head)
        made.screened_rows, made.confirmed_rows = self.screened_rows, self.confirmed_rows
        return made

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool, as `decide`."""
        return self.decide(query).leave

    def decide(self, query: ExitQuery) -> ExitDecision:
        """Which rows leave; with exact logits of the rows that needed them."""
        decision = self._in_two_stages(query) if self.head.serves(query) else decide(self.policy, query)
        self.head.observe(query, decision)
        return decision

    def _in_two_stages(self, query: ExitQuery) -> ExitDecision:
        rough = ApproximateQuery(**{name: getattr(query, name) for name in QUERY_FIELDS})
        rough.approximate = lambda: self.head.approximation(query)
        maybe = decide(self.first, rough).leave
        if not rough.computed:  # decided without logits: nothing to confirm
            return ExitDecision(maybe)
        self.screened_rows += len(maybe)
        picked = maybe.nonzero()[:, 0]  # the one wait for the device
        if len(picked) == 0:
            return ExitDecision(maybe)
        self.confirmed_rows += len(picked)
        if len(picked) == len(maybe):
            return decide(self.policy, query)
        some = decide(self.policy, query.only(picked))
        leave = torch.zeros_like(maybe).index_copy_(0, picked, some.leave)
        if some.logits is None:
            return ExitDecision(leave)
        return ExitDecision(leave, picked if some.rows is None else picked[some.rows], some.logits)

    def to_dict(self) -> dict[str, Any]:
        """JSON form: that of the policy inside, and the kind of approximate head."""
        inner = self.policy.to_dict() if hasattr(self.policy, "to_dict") else type(self.policy).__name__
        return {"policy": inner, "head": type(self.head).__name__}
