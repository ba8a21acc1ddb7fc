"""Exit policies: which rows leave at an exit. A threshold on a confidence measure, or a forced schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch

from deed.policies.measures import CONFIDENCES, Confidence, MaxProb, build_confidence
from deed.policies.query import Ask


class ExitPolicy(Protocol):
    """Who leaves at an exit. `remembers` as in `Confidence`; `exits_early` False promises full depth throughout."""

    remembers: bool
    exits_early: bool

    def leaves(self, ask: Ask) -> torch.Tensor:
        """`[r]` bool. Not asked at the last exit, where every row leaves."""
        ...


@dataclass
class ThresholdPolicy:
    """Leave when the measure reaches the threshold.

    Args:
        confidence: the measure.
        threshold: a number, a list of one per exit before the last, or a tensor `[rows]` of one per row.
        decay: `{"temperature": t, "length": n}` or None, see `DeedConfig.threshold_decay`.
    """

    confidence: Confidence
    threshold: float | Sequence[float] | torch.Tensor
    decay: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threshold, torch.Tensor) and self.threshold.ndim == 0:
            self.threshold = float(self.threshold)
        values = torch.as_tensor(self.threshold, dtype=torch.float64)
        if values.ndim > 1 or values.isnan().any():
            raise ValueError(
                f"exit_threshold must be a number, a list per exit or a tensor [rows], got {self.threshold!r}"
            )
        self.exits_early = bool((values <= 1).any())
        self.remembers = self.confidence.remembers

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

    def at(self, ask: Ask) -> float | torch.Tensor:
        """The threshold in force: a float, or a tensor `[r]`."""
        if isinstance(self.threshold, torch.Tensor):
            value: Any = self.threshold.to(ask.rows.device)[ask.rows].to(torch.float64)
        elif isinstance(self.threshold, (list, tuple)):
            value = float(self.threshold[ask.exit_index])
        else:
            value = float(self.threshold)  # type: ignore[arg-type]
        if self.decay is None:
            return value
        bonus = 0.1 * math.exp(-self.decay["temperature"] * ask.step / self.decay["length"])
        if isinstance(value, torch.Tensor):
            return torch.where(value > 1, value, 0.9 * value + bonus)
        return value if value > 1 else 0.9 * value + bonus

    def leaves(self, ask: Ask) -> torch.Tensor:
        threshold = self.at(ask)
        if isinstance(threshold, float) and threshold > 1:  # no measure reaches it: spare the head
            return torch.zeros(len(ask.rows), dtype=torch.bool, device=ask.hidden.device)
        confidence = self.confidence(ask)
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
    """

    depths: Sequence[int] | Sequence[Sequence[int]]
    ask: bool = False
    measure: Confidence = field(default_factory=MaxProb)
    remembers = False
    exits_early = True

    def __post_init__(self) -> None:
        nested = len(self.depths) > 0 and isinstance(self.depths[0], (list, tuple, torch.Tensor))
        self._table: list[list[int]] = [
            [int(d) for d in row]  # type: ignore[union-attr, arg-type]
            for row in (self.depths if nested else [self.depths])
        ]
        if not all(row and min(row) >= 1 for row in self._table):
            raise ValueError(f"FixedSchedule needs depths >= 1, [steps] or [rows][steps], got {self.depths!r}")

    def check_rows(self, n_rows: int) -> None:
        """Raises `ValueError` unless the schedule has one list, or one per row."""
        if len(self._table) not in (1, n_rows):
            raise ValueError(f"FixedSchedule has {len(self._table)} rows, but {n_rows} rows are decoded")

    def begin(self, n_rows: int) -> FixedSchedule:
        """This schedule, checked to fit `n_rows` decoder rows."""
        self.check_rows(n_rows)
        return self

    def leaves(self, ask: Ask) -> torch.Tensor:
        if self.ask:
            self.measure(ask)
        if len(self._table) == 1:
            target = self._table[0][ask.step % len(self._table[0])]
            return torch.full((len(ask.rows),), target <= ask.depth, device=ask.hidden.device)
        wanted = [self._table[r][ask.step % len(self._table[r])] <= ask.depth for r in ask.rows.tolist()]
        return torch.tensor(wanted, device=ask.hidden.device)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"depths": self._table if len(self._table) > 1 else self._table[0], "ask": self.ask}
