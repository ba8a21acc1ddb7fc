"""`Ask`: one exit asked about the rows still in work at one decoding step; logits are computed when first looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch


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
