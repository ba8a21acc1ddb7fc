"""`{"name": "shortlist"}`: in each step the first exit asked looks at the whole vocabulary, later ones at its best tokens."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch

from deed.exits.heads import DirectExits

from ..policy import ExitPolicy
from ..query import Ask
from .screen import Screen, exact_dtype, gathered_logits, head_parts
from .two_stage import FirstLook


class Shortlist:
    """A first look at the `size` tokens that were best when the whole vocabulary was last looked at in this step.

    Approximates in one direction: confidence over the best tokens is never below that over all, so as long as they are on
    the list, it says maybe where plain asking would say yes; a token that was not among the best before can be missed,
    and its row goes deeper. A row never leaves where plain asking would not let it.

    The first look is the exact head's, or with `first="screen"` that of a `Screen` of the given rank, whose refined tokens
    are the list.

    Args:
        model: a deed model.
        size: tokens per row.
        first: "exact" or "screen".
        rank: see `Screen`.
    """

    equals_plain = False
    confirms = True

    def __init__(self, model: Any, size: int, first: str = "exact", rank: int | None = None) -> None:
        self.exits = DirectExits(model)
        self.weight, self.bias, self.scale, _ = head_parts(model)
        self.size = min(size, len(self.weight))
        screened = first == "screen"
        self.screen = Screen(model, rank, self.size, slack=0.0, bound=False, confirm=True) if screened else None
        self.asked: Ask | None = None  # the last exit asked, whose logits may have become known
        self.rows: torch.Tensor | None = None  # [n], rows that have a list
        self.tokens: torch.Tensor | None = None  # [n, size]

    def begin(self) -> Shortlist:
        fresh = copy(self)
        fresh.asked = fresh.rows = fresh.tokens = None
        return fresh

    def policy(self, policy: ExitPolicy) -> ExitPolicy:
        return policy

    def serves(self, ask: Ask) -> bool:
        before, self.asked = self.asked, ask
        if before is None or before.step != ask.step or before.exit_index >= ask.exit_index:
            self.rows = self.tokens = None
        elif before.looked:  # asked plainly
            self.rows, self.tokens = before.rows, before.masked_logits.topk(self.size, sorted=False).indices
        elif before.narrowed is not None and self.tokens is not None:  # of some rows a newer full look is known
            positions, logits = before.narrowed
            if before.allowed is not None:
                logits = logits.masked_fill(~before.allowed[positions], -torch.inf)
            at = self._positions(before.rows[positions])
            self.tokens = self.tokens.index_copy(0, at, logits.topk(self.size, sorted=False).indices)
        return self.tokens is not None or self.screen is not None

    def logits(self, ask: FirstLook) -> torch.Tensor:
        if self.tokens is None:
            assert self.screen is not None
            logits = self.screen.logits(ask)
            self.rows, self.tokens = ask.rows, ask.refined
            return logits
        features = self.exits.features(ask.depth, ask.hidden)
        tokens = self.tokens if len(self.tokens) == 1 else self.tokens[self._positions(ask.rows)]
        exact = gathered_logits(self.weight, self.bias, self.scale, features, tokens)
        exact = exact.to(exact_dtype(self.weight))
        # Over the whole vocabulary again, so that masks and measures need not know of the list.
        return exact.new_full((len(tokens), len(self.weight)), -torch.inf).scatter_(1, tokens, exact)

    def _positions(self, rows: torch.Tensor) -> torch.Tensor:
        """Where `rows` lie in `self.rows`."""
        assert self.rows is not None
        return (rows[:, None] == self.rows).int().argmax(-1)
