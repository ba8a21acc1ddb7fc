"""`DeedConfig.draft_head` as data: options, defaults, what is refused. No models here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deed.errors import DeedConfigError

REFINE = 64  # tokens that get their exact logits
MAX_LAYERS = 0.5  # of a decoder layer: what exits cost beyond that eats up what they save


@dataclass(frozen=True)
class DraftSpec:
    """A draft head, of low rank (`rank`) or of some tokens (`tokens`).

    Attributes:
        rank: width of the approximate logits; None: a shortlist.
        refine: tokens, the best by the approximate logits, that get their exact ones.
        tokens: ids of the shortlist, or how many; None: low rank.
        max_layers: the most that the head may cost, in decoder layers.
    """

    rank: int | None = None
    refine: int = REFINE
    tokens: int | tuple[int, ...] | None = None
    max_layers: float = MAX_LAYERS

    @property
    def size(self) -> int:
        """How many tokens a shortlist has, 0 where there is none."""
        return len(self.tokens) if isinstance(self.tokens, tuple) else self.tokens or 0


def parse_draft_head(spec: Any) -> DraftSpec:
    """`{"rank": 32, "refine": 32}`, `{"tokens": 4096}` or `{"tokens": [5, 17, …]}`; each also with `max_layers`.

    Raises:
        DeedConfigError: anything else.
    """
    kinds = 'draft_head must be None, {"rank": 32, "refine": 32} or {"tokens": 4096} (a number of tokens or their ids)'
    if not isinstance(spec, dict) or ("rank" in spec) == ("tokens" in spec):
        raise DeedConfigError(f"{kinds}, got {spec!r}")
    takes = {"rank", "refine", "max_layers"} if "rank" in spec else {"tokens", "max_layers"}
    if set(spec) - takes:
        raise DeedConfigError(f"draft_head does not take {sorted(set(spec) - takes)} with {sorted(takes)[-1]}")
    for name in ("rank", "refine"):
        if not _at_least(spec.get(name, 1), 1):
            raise DeedConfigError(f"draft_head: {name} must be a whole number >= 1, got {spec[name]!r}")
    most = spec.get("max_layers", MAX_LAYERS)
    if isinstance(most, bool) or not isinstance(most, (int, float)) or not most > 0:
        raise DeedConfigError(f"draft_head: max_layers must be a number above 0, got {most!r}")
    tokens = spec.get("tokens")
    if isinstance(tokens, (list, tuple)):
        if len(set(tokens)) != len(tokens) or not tokens or not all(_at_least(t, 0) for t in tokens):
            raise DeedConfigError(f"draft_head: tokens must be ids, each of them once, got {_short(tokens)}")
        tokens = tuple(tokens)
    elif "tokens" in spec and not _at_least(tokens, 1):
        raise DeedConfigError(f"draft_head: tokens must be a number of them >= 1, or their ids, got {tokens!r}")
    return DraftSpec(spec.get("rank"), spec.get("refine", REFINE), tokens, float(most))


def _at_least(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) < 80 else f"{text[:80]}…"
