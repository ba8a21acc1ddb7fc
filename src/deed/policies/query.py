"""`ExitQuery`: one exit asked about the rows still decoding at one step; logits are computed on first access.

`ExitDecision` is the answer: which rows leave, and the logits that were computed to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch


@dataclass
class ExitQuery:
    """One exit asked about the rows still decoding at one step.

    Attributes:
        depth: 1-based decoder depth of the exit.
        exit_index: its index among the exits; `is_last` says whether it is the last.
        step: index of the token being generated, 0 for the first.
        rows: `[r]` long, which rows of the batch are asked about.
        hidden: `[r, d_model]`, this layer's output at the newest position.
        previous: `[r, d_model]`, the layer below's output there; None at the first layer.
        head: gives this exit's raw logits: `head()` those of `hidden`, `head(rows of it)` of these alone. An exit that has a
            layer of its own cannot know them by that: `logits_at(places)` serves all exits.
        allowed: `[r, vocab]` bool or None; where given, confidence is taken over these tokens only.
        previous_tokens: argmax tokens `[r]` of the exits already asked in this step, oldest first.
        steps: `[r]`, the step of each row where rows joined the batch at different times; None: `step` for all.
        features: gives what the exit's head gets, `[r, d_model]`: `features()`, `features(places)`; None: `head` knows. With
            it, `head` takes places (long), too.
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
    previous_tokens: list[torch.Tensor] = field(default_factory=list)
    steps: Sequence[int] | None = None
    features: Callable[..., torch.Tensor] | None = None

    @cached_property
    def logits(self) -> torch.Tensor:
        """`[r, vocab]` raw logits of this exit."""
        return self.head()

    @property
    def computed(self) -> bool:
        """Whether the logits were computed."""
        return "logits" in self.__dict__

    @cached_property
    def masked_logits(self) -> torch.Tensor:
        """The logits confidence is measured on: -inf where a token is not allowed."""
        return self.logits if self.allowed is None else self.logits.masked_fill(~self.allowed, -math.inf)

    @property
    def earlier(self) -> list[torch.Tensor]:
        """The former name of `previous_tokens`."""
        return self.previous_tokens

    def logits_at(self, places: torch.Tensor) -> torch.Tensor:
        """`[n, vocab]` raw logits of the rows at `places` (long) alone."""
        return self.head(self.hidden[places] if self.features is None else places)

    def only(self, picked: torch.Tensor) -> ExitQuery:
        """The same exit asked about the rows at positions `picked` (long) alone."""
        made: Any = self.features
        return replace(
            self,
            rows=self.rows[picked],
            hidden=self.hidden[picked],
            previous=None if self.previous is None else self.previous[picked],
            head=lambda rows=None: self.logits_at(picked) if rows is None else self.head(_at(picked, rows)),
            features=made if self.features is None else lambda rows=None: made(_at(picked, rows)),
            allowed=None if self.allowed is None else self.allowed[picked],
            previous_tokens=[token[picked] for token in self.previous_tokens],
            steps=None if self.steps is None else [self.steps[i] for i in picked.tolist()],
        )


def _at(picked: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Places among those picked as places among all; rows of `hidden` as they are."""
    if rows is None:
        return picked
    return rows if rows.is_floating_point() else picked[rows]


@dataclass(frozen=True)
class ExitDecision:
    """A policy's answer to an `ExitQuery`.

    Attributes:
        leave: `[r]` bool, the rows that leave.
        rows: `[n]` long, ascending: positions in the query's rows whose logits were computed; None: of all, or of none.
        logits: `[n or r, vocab]`, their logits; None where none were computed.
    """

    leave: torch.Tensor
    rows: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    @property
    def computed_rows(self) -> int:
        """Of how many rows the logits were computed."""
        return 0 if self.logits is None else len(self.logits)

    def logits_of(self, exiting: list[int]) -> torch.Tensor | None:
        """Logits `[n, vocab]` of the rows at the positions `exiting` (ascending), all of which leave; None where they
        were not computed."""
        if self.logits is None or len(exiting) == len(self.logits):
            return self.logits
        at = torch.tensor(exiting, dtype=torch.long, device=self.logits.device)
        return self.logits.index_select(0, at if self.rows is None else torch.searchsorted(self.rows, at))


Ask = ExitQuery  # the former name, still public as `deed.Ask`
