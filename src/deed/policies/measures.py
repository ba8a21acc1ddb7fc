"""Confidence measures: how confident an exit is in its token.

A measure maps an `ExitQuery` to a confidence per row; larger is surer, 1 is certain. The query's logits are computed only
when they are looked at, so that a measure of hidden states costs no run of the head. Measures follow CALM (Schuster et al.
2022, section 3.5) and PABEE (Zhou et al. 2020, patience).
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

import torch

from deed.errors import DeedConfigError

from .ordered_prob import OrderedProb
from .query import ExitQuery


class Confidence(Protocol):
    """A measure: `ExitQuery` to `[r]` floats. `needs_history` asks for `ExitQuery.previous_tokens` to be kept (its former
    name `remembers` is read as well, see `needs_history`)."""

    needs_history: bool

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        """Confidence `[r]` of the query's rows."""
        ...


def needs_history(measure_or_policy: Any) -> bool:
    """Whether a measure or a policy wants `ExitQuery.previous_tokens`; False where it does not say."""
    found = getattr(measure_or_policy, "needs_history", None)
    return bool(getattr(measure_or_policy, "remembers", False) if found is None else found)


@dataclass(frozen=True)
class MaxProb:
    """Largest softmax probability (the default of DEED, section 3)."""

    needs_history = False

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        # softmax is one fused kernel; exp(max - logsumexp) saves the [rows, vocab] but takes five times as long.
        return query.masked_logits.softmax(-1).amax(-1)


@dataclass(frozen=True)
class Margin:
    """Gap between the two largest probabilities."""

    needs_history = False

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        top = query.masked_logits.softmax(-1).topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]


@dataclass(frozen=True)
class Entropy:
    """1 - H / log V, V the number of tokens measured over (1 where only one is allowed)."""

    needs_history = False

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        log_p = query.masked_logits.log_softmax(-1)
        p = log_p.exp()
        entropy = -torch.where(p > 0, p * log_p, torch.zeros_like(p)).sum(-1)
        if query.allowed is None:
            return 1 - entropy / math.log(log_p.shape[-1])
        size = query.allowed.sum(-1).to(entropy.dtype)
        return torch.where(size > 1, 1 - entropy / size.log(), torch.ones_like(entropy))


@dataclass(frozen=True)
class StateSimilarity:
    """Cosine between this layer's output and the layer below's. It starts at the second layer: the first gives 0."""

    needs_history = False

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        if query.previous is None:
            return query.hidden.new_zeros(query.hidden.shape[0])
        return torch.nn.functional.cosine_similarity(query.hidden, query.previous, dim=-1)


@dataclass(frozen=True)
class Patience:
    """How many exits in a row gave the same token as this one, over `patience`, at most 1 (threshold 1 is PABEE)."""

    patience: int = 2
    needs_history = True

    def __post_init__(self) -> None:
        if not isinstance(self.patience, int) or isinstance(self.patience, bool) or self.patience < 1:
            raise DeedConfigError(f"confidence patience must be an integer >= 1, got {self.patience!r}")

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        token = query.masked_logits.argmax(-1)
        agrees = torch.ones_like(token, dtype=torch.bool)
        count = torch.zeros_like(token)
        for before in reversed(query.previous_tokens):
            agrees = agrees & (before == token)
            count = count + agrees
        return (count.to(query.logits.dtype) / self.patience).clamp(max=1)


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
