"""How sure an exit is, and who leaves: confidence measures and exit policies.

A measure maps one asked exit to a confidence per row, larger is surer, 1 is certain. A policy says which rows leave.
Both see an `Ask`, whose logits are computed only when somebody looks at them, so a forced schedule costs no head.
Measures follow CALM (Schuster et al. 2022, section 3.5) and PABEE (Zhou et al. 2020, patience).
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

import torch

from deed.errors import DeedConfigError
from deed.policies.query import Ask

from .ordered_prob import OrderedProb


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

    # Optional: `begin(n_rows)` gives the policy that a generation of that many decoder rows works with.
