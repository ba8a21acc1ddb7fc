"""How sure an exit is, and who leaves: confidence measures and exit policies.

A measure maps one asked exit to a confidence per row, larger is surer, 1 is certain. A policy says which rows leave.
Both see an `Ask`, whose logits are computed only when somebody looks at them, so a forced schedule costs no head.
Measures follow CALM (Schuster et al. 2022, section 3.5) and PABEE (Zhou et al. 2020, patience).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol

import torch

from .config import DeedConfigError
from .ordered import OrderedProb


@dataclass
class Ask:
    """One exit asked about the rows still in work at one decoding step.

    Attributes:
        depth: 1-based decoder depth of the exit.
        exit_index: its index among the exits; `is_last` says whether it is the last.
        step: index of the token being generated, 0 for the first.
        rows: `[r]` long, which rows of the batch are asked.
        hidden: `[r, d_model]`, this layer's output at the newest position.
        previous: `[r, d_model]`, the layer below's output there; None at the first layer.
        head: gives this exit's raw logits: `head()` those of `hidden`, `head(rows of it)` of these alone.
        allowed: `[r, vocab]` bool or None; where given, confidence is taken over these tokens only.
        earlier: argmax tokens `[r]` of the exits already asked in this step, oldest first.
        narrowed: positions in `rows` (ascending) and logits for those alone, left by a policy that computed the
            answer of no other row (`deed.asking`); every row that leaves is among them.
    """

    depth: int
    exit_index: int
    is_last: bool
    step: int
    rows: torch.Tensor
    hidden: torch.Tensor
    previous: torch.Tensor | None
    head: Callable[..., torch.Tensor]
    allowed: torch.Tensor | None = None
    earlier: list[torch.Tensor] = field(default_factory=list)
    narrowed: tuple[torch.Tensor, torch.Tensor] | None = None

    @cached_property
    def logits(self) -> torch.Tensor:
        """`[r, vocab]` raw logits of this exit."""
        return self.head()

    @property
    def looked(self) -> bool:
        """Whether the logits were computed."""
        return "logits" in self.__dict__

    @cached_property
    def masked_logits(self) -> torch.Tensor:
        """The logits confidence is measured on: -inf where a token is not allowed."""
        return self.logits if self.allowed is None else self.logits.masked_fill(~self.allowed, -math.inf)

    def only(self, picked: torch.Tensor) -> Ask:
        """The same exit asked about the rows at positions `picked` (long) alone."""
        hidden = self.hidden[picked]
        return Ask(
            self.depth,
            self.exit_index,
            self.is_last,
            self.step,
            self.rows[picked],
            hidden,
            None if self.previous is None else self.previous[picked],
            lambda rows=hidden: self.head(rows),
            None if self.allowed is None else self.allowed[picked],
            [token[picked] for token in self.earlier],
        )

    def leaving(self, leave: list[bool]) -> torch.Tensor:
        """Logits `[n, vocab]` of the n rows that leave, with no more work than was not yet done."""
        if self.narrowed is None and all(leave):
            return self.logits
        picked = torch.tensor([i for i, gone in enumerate(leave) if gone], device=self.hidden.device)
        if self.narrowed is not None:
            positions, logits = self.narrowed
            if len(positions) == len(picked):
                return logits
            return logits.index_select(0, torch.searchsorted(positions, picked))
        if self.looked:
            return self.logits.index_select(0, picked)
        return self.head(self.hidden.index_select(0, picked))


class Confidence(Protocol):
    """A measure: `Ask` to `[r]` floats; `remembers` asks for `Ask.earlier` to be kept."""

    remembers: bool

    def __call__(self, ask: Ask) -> torch.Tensor: ...


@dataclass(frozen=True)
class MaxProb:
    """Largest softmax probability (the paper's default)."""

    remembers = False

    def __call__(self, ask: Ask) -> torch.Tensor:
        # softmax is one fused kernel; exp(max - logsumexp) saves the [rows, vocab] but takes five times as long.
        return ask.masked_logits.softmax(-1).amax(-1)


@dataclass(frozen=True)
class Margin:
    """Gap between the two largest probabilities."""

    remembers = False

    def __call__(self, ask: Ask) -> torch.Tensor:
        top = ask.masked_logits.softmax(-1).topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]


@dataclass(frozen=True)
class Entropy:
    """1 - H / log V, V the number of tokens measured over (1 where only one is allowed)."""

    remembers = False

    def __call__(self, ask: Ask) -> torch.Tensor:
        log_p = ask.masked_logits.log_softmax(-1)
        p = log_p.exp()
        entropy = -torch.where(p > 0, p * log_p, torch.zeros_like(p)).sum(-1)
        if ask.allowed is None:
            return 1 - entropy / math.log(log_p.shape[-1])
        size = ask.allowed.sum(-1).clamp(min=1).to(entropy.dtype)
        return torch.where(size > 1, 1 - entropy / size.log().clamp(min=1e-12), torch.ones_like(entropy))


@dataclass(frozen=True)
class StateSimilarity:
    """Cosine between this layer's output and the layer below's. It starts at the second layer: the first gives 0."""

    remembers = False

    def __call__(self, ask: Ask) -> torch.Tensor:
        if ask.previous is None:
            return ask.hidden.new_zeros(ask.hidden.shape[0])
        return torch.nn.functional.cosine_similarity(ask.hidden, ask.previous, dim=-1)


@dataclass(frozen=True)
class Patience:
    """How many exits in a row gave the same token as this one, over `patience`, at most 1 (threshold 1 is PABEE)."""

    patience: int = 2
    remembers = True

    def __post_init__(self) -> None:
        if not isinstance(self.patience, int) or self.patience < 1:
            raise DeedConfigError(f"confidence patience must be an integer >= 1, got {self.patience!r}")

    def __call__(self, ask: Ask) -> torch.Tensor:
        token = ask.masked_logits.argmax(-1)
        agrees = torch.ones_like(token, dtype=torch.bool)
        count = torch.zeros_like(token)
        for before in reversed(ask.earlier):
            agrees = agrees & (before == token)
            count = count + agrees
        return (count.to(ask.logits.dtype) / self.patience).clamp(max=1)


CONFIDENCES: dict[str, type] = {
    "max_prob": MaxProb,
    "margin": Margin,
    "entropy": Entropy,
    "state_similarity": StateSimilarity,
    "patience": Patience,
    "ordered_prob": OrderedProb,
}


def build_confidence(spec: str | dict[str, Any] | Confidence) -> Confidence:
    """A measure from its name, its saved form `{"name": …, options}`, or itself.

    Raises:
        DeedConfigError: an unknown name or option.
    """
    if callable(spec):
        return spec
    options = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = options.pop("name", None)
    if name not in CONFIDENCES:
        raise DeedConfigError(f"confidence must be one of {', '.join(map(repr, CONFIDENCES))}, got {spec!r}")
    known = fields(CONFIDENCES[name])
    if unknown := sorted(set(options) - {f.name for f in known}):
        raise DeedConfigError(f"confidence {name!r} does not take the options {unknown}")
    if missing := [f.name for f in known if f.name not in options and f.default is MISSING]:
        raise DeedConfigError(f"confidence {name!r} needs the options {missing}")
    built: Confidence = CONFIDENCES[name](**options)
    return built


class ExitPolicy(Protocol):
    """Who leaves at an exit. `remembers` as in `Confidence`; `exits_early` False promises full depth throughout."""

    remembers: bool
    exits_early: bool

    def leaves(self, ask: Ask) -> torch.Tensor:
        """`[r]` bool. Not asked at the last exit, where every row leaves."""
        ...

    # Optional: `begin(n_rows)` gives the policy that a generation of that many decoder rows works with.


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
    measure: Confidence = MaxProb()
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
