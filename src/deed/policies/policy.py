"""Exit policies: which rows leave at an exit. A threshold on a confidence measure, or a forced schedule."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, cast

import torch

from .measures import CONFIDENCES, Confidence, MaxProb, build_confidence, needs_history
from .query import ExitDecision, ExitQuery


class ExitPolicy(Protocol):
    """Decides which rows leave at an exit.

    `exits_early` False promises full depth throughout; `needs_history` as in `Confidence`. Optional methods:

    - `begin(n_rows)` gives the policy that a generation of that many decoder rows works with.
    - `decide(query)` gives an `ExitDecision` in place of `leaves`, for policies that compute the logits of some rows only.
    - `keep(rows)` and `join(other, n_rows, n_other)` give the policy of a batch that rows left or joined; without them a
      policy is taken to be the same for every row.
    """

    needs_history: bool
    exits_early: bool

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool: which rows leave. Not called at the last exit, where every row leaves."""
        ...


def decide(policy: ExitPolicy, query: ExitQuery) -> ExitDecision:
    """The decision of `policy` for `query`, by whichever of `decide` and `leaves` it has."""
    if hasattr(policy, "decide"):
        return cast(ExitDecision, policy.decide(query))
    leave = policy.leaves(query)
    return ExitDecision(leave, None, query.logits if query.computed else None)


def begin(policy: ExitPolicy, n_rows: int) -> ExitPolicy:
    """The policy that a generation of `n_rows` decoder rows works with.

    Raises:
        ValueError: the policy is for another number of rows.
    """
    return cast(ExitPolicy, policy.begin(n_rows)) if hasattr(policy, "begin") else policy


def keep(policy: ExitPolicy, rows: list[int]) -> ExitPolicy:
    """The policy of a batch of which only `rows` are left, in that order."""
    return cast(ExitPolicy, policy.keep(rows)) if hasattr(policy, "keep") else policy


def join(policy: ExitPolicy, other: ExitPolicy, n_rows: int, n_other: int) -> ExitPolicy:
    """The policy of `n_rows` rows under `policy`, followed by `n_other` rows under `other`.

    Args:
        policy: of the rows that are there.
        other: of the rows that join them.
        n_rows: how many are there.
        n_other: how many join.

    Raises:
        ValueError: the two cannot decide for one batch.
    """
    if hasattr(policy, "join"):
        return cast(ExitPolicy, policy.join(other, n_rows, n_other))
    if policy is other or policy == other:
        return policy
    raise ValueError(f"rows under different exit policies cannot share a batch: {policy!r} and {other!r}")


@dataclass
class ThresholdPolicy:
    """Leave when the measure reaches the threshold.

    Args:
        confidence: the measure.
        threshold: a number, a list of one per exit before the last, or a tensor `[rows]` of one per row.
        decay: `{"temperature": t, "length": n}` or None, see `DeedConfig.threshold_decay`.

    Raises:
        ValueError: a threshold that is no number, or below 0.

    Example:
        ```python
        policy = deed.ThresholdPolicy(deed.Margin(), 0.5)  # instead of the model's own measure and threshold
        tokens = model.generate(**inputs, exit_policy=policy, max_new_tokens=8)
        ```
    """

    confidence: Confidence
    threshold: float | Sequence[float] | torch.Tensor
    decay: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threshold, torch.Tensor) and self.threshold.ndim == 0:
            self.threshold = float(self.threshold)
        try:
            if isinstance(self.threshold, str):
                raise TypeError
            values = torch.as_tensor(self.threshold, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            values = torch.tensor(math.nan)
        if values.ndim > 1 or values.isnan().any() or (values < 0).any():
            raise ValueError(
                "exit_threshold must be a number of at least 0, a list per exit or a tensor [rows] of such, got "
                f"{self.threshold!r}"
            )
        self.exits_early = bool((values <= 1).any())
        self.needs_history = needs_history(self.confidence)

    def begin(self, n_rows: int) -> ThresholdPolicy:
        """This policy for `n_rows` decoder rows (requests x beams): a threshold per request becomes one per row.

        Raises:
            ValueError: the rows are not a multiple of the thresholds.
        """
        if not isinstance(self.threshold, torch.Tensor):
            return self
        given = self.threshold.numel()
        if given == 0 or n_rows % given:
            raise ValueError(f"exit_threshold has {given} values, but {n_rows} rows are decoded")
        # A copy: the policy may be the caller's own, used again with other beams.
        return replace(self, threshold=self.threshold.repeat_interleave(n_rows // given))

    def keep(self, rows: list[int]) -> ThresholdPolicy:
        """This policy for some of its rows."""
        return replace(self, threshold=self.threshold[rows]) if isinstance(self.threshold, torch.Tensor) else self

    def join(self, other: ExitPolicy, n_rows: int, n_other: int) -> ThresholdPolicy:
        """This policy for its rows, `other` for those that follow them: a threshold per row.

        Args:
            other: of the rows that join.
            n_rows: how many this one decides for.
            n_other: how many join.

        Raises:
            ValueError: `other` has another measure or decay, or one of the two a threshold per exit.
        """
        if not isinstance(other, ThresholdPolicy) or (other.confidence, other.decay) != (self.confidence, self.decay):
            raise ValueError("rows of one batch need the same confidence measure and decay; thresholds may differ")
        one, two = self.threshold, other.threshold
        if not isinstance(one, torch.Tensor) and not isinstance(two, torch.Tensor) and one == two:
            return self
        if isinstance(one, (list, tuple)) or isinstance(two, (list, tuple)):
            raise ValueError("a threshold per exit has to be the same for all rows of a batch")
        parts = [torch.as_tensor(t, dtype=torch.float64).expand(n) for t, n in ((one, n_rows), (two, n_other))]
        return replace(self, threshold=torch.cat([p.cpu() for p in parts]))

    def at(self, query: ExitQuery) -> float | torch.Tensor:
        """The threshold in force: a float, or a tensor `[r]` float64."""
        if isinstance(self.threshold, torch.Tensor):
            value: Any = self.threshold.to(query.rows.device)[query.rows].to(torch.float64)
        elif isinstance(self.threshold, (list, tuple)):
            value = float(self.threshold[query.exit_index])
        else:
            value = float(self.threshold)  # type: ignore[arg-type]
        if self.decay is None:
            return value
        rate = self.decay["temperature"] / self.decay["length"]
        if query.steps is not None:
            bonus: Any = 0.1 * torch.tensor(
                [math.exp(-rate * step) for step in query.steps], dtype=torch.float64, device=query.rows.device
            )
        else:
            bonus = 0.1 * math.exp(-self.decay["temperature"] * query.step / self.decay["length"])
        if isinstance(value, torch.Tensor):
            return torch.where(value > 1, value, 0.9 * value + bonus)
        return value if value > 1 else 0.9 * value + bonus

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool; above 1 without a run of the head."""
        threshold = self.at(query)
        if isinstance(threshold, float) and threshold > 1:  # no measure reaches it
            return torch.zeros(len(query.rows), dtype=torch.bool, device=query.hidden.device)
        confidence = self.confidence(query)
        if isinstance(threshold, torch.Tensor):  # in the measure's dtype, as a number would be
            threshold = threshold.to(confidence.dtype)
        return confidence >= threshold

    def to_dict(self) -> dict[str, Any]:
        """JSON form (a measure of your own is named by its class)."""
        name = next((n for n, c in CONFIDENCES.items() if c is type(self.confidence)), type(self.confidence).__name__)
        options = asdict(self.confidence) if name in CONFIDENCES else {}  # type: ignore[call-overload]
        value = self.threshold.tolist() if isinstance(self.threshold, torch.Tensor) else self.threshold
        return {"confidence": {"name": name, **options}, "threshold": value, "decay": self.decay}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ThresholdPolicy:
        """The inverse of `to_dict` for the built-in measures."""
        return cls(build_confidence(values["confidence"]), values["threshold"], values.get("decay"))


@dataclass
class FixedSchedule:
    """Forced depths, for tests and speed runs: token t leaves at `depths[t % len(depths)]`, rounded up to an exit.

    Args:
        depths: `[steps]`, or `[rows][steps]` with one list per decoder row (requests x beams).
        ask: also compute each passed exit's logits and confidence, as a threshold would (for honest timings).
        measure: the confidence that `ask` computes.

    Raises:
        ValueError: no depths, one that is no whole number, or one below 1 (`generate()` refuses those deeper than the
            decoder).

    Example:
        ```python
        policy = deed.FixedSchedule([3, 1, 6, 2])  # token t exits at depth policy.depths[t % 4]
        out = model.generate(**inputs, exit_policy=policy, max_new_tokens=4, return_dict_in_generate=True)
        ```
    """

    depths: Sequence[int] | Sequence[Sequence[int]]
    ask: bool = False
    measure: Confidence = field(default_factory=MaxProb)
    needs_history = False
    exits_early = True

    def __post_init__(self) -> None:
        nested = len(self.depths) > 0 and (isinstance(self.depths[0], (list, tuple)) or _ndim(self.depths[0]) > 0)
        self._table: list[list[int]] = [
            [_whole(d) for d in row]  # type: ignore[union-attr]
            for row in (self.depths if nested else [self.depths])
        ]
        if not all(row and min(row) >= 1 for row in self._table):
            raise ValueError(f"FixedSchedule needs depths >= 1, [steps] or [rows][steps], got {self.depths!r}")

    def check_rows(self, n_rows: int) -> None:
        """Raises `ValueError` unless the schedule has one list, or one per row."""
        if len(self._table) not in (1, n_rows):
            raise ValueError(f"FixedSchedule has {len(self._table)} rows, but {n_rows} rows are decoded")

    def check_layers(self, n_layers: int) -> None:
        """Raises `ValueError` for a depth that a decoder of `n_layers` does not have."""
        deepest = max(map(max, self._table))
        if deepest > n_layers:
            raise ValueError(f"FixedSchedule asks for depth {deepest}, but the decoder has {n_layers} layers")

    def begin(self, n_rows: int) -> FixedSchedule:
        """This schedule, checked to fit `n_rows` decoder rows."""
        self.check_rows(n_rows)
        return self

    def keep(self, rows: list[int]) -> FixedSchedule:
        """This schedule for some of its rows."""
        return self if len(self._table) == 1 else replace(self, depths=[self._table[r] for r in rows])

    def join(self, other: ExitPolicy, n_rows: int, n_other: int) -> FixedSchedule:
        """This schedule for its rows, `other` for those that follow them.

        Args:
            other: of the rows that join.
            n_rows: how many this one decides for.
            n_other: how many join.

        Raises:
            ValueError: `other` is no such schedule.
        """
        if not isinstance(other, FixedSchedule) or (other.ask, other.measure) != (self.ask, self.measure):
            raise ValueError("rows under a FixedSchedule can be joined by rows under another only")
        one, two = (p._table if len(p._table) == n else p._table * n for p, n in ((self, n_rows), (other, n_other)))
        return replace(self, depths=[*one, *two])

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool: whose depth is reached."""
        if self.ask:
            self.measure(query)
        if len(self._table) == 1 and query.steps is None:
            target = self._table[0][query.step % len(self._table[0])]
            return torch.full((len(query.rows),), target <= query.depth, device=query.hidden.device)
        rows = query.rows.tolist()
        tables = [self._table[0 if len(self._table) == 1 else r] for r in rows]
        steps = query.steps or [query.step] * len(rows)
        wanted = [table[step % len(table)] <= query.depth for table, step in zip(tables, steps, strict=True)]
        return torch.tensor(wanted, device=query.hidden.device)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"depths": self._table if len(self._table) > 1 else self._table[0], "ask": self.ask}


def _ndim(value: Any) -> int:
    return getattr(value, "ndim", 0)


def _whole(depth: Any) -> int:
    """A depth as an int.

    Raises:
        ValueError: not a whole number (int, NumPy's or a tensor of one).
    """
    try:
        if isinstance(depth, bool) or getattr(depth, "dtype", None) == torch.bool:
            raise TypeError
        return operator.index(depth)
    except (TypeError, ValueError):
        raise ValueError(f"FixedSchedule needs whole numbers as depths, got {depth!r}") from None
