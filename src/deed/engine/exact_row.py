"""One row of an exact generation: its tokens, of which the newest may be drafts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Row:
    """One row of the batch.

    Attributes:
        tokens: prompt, verified tokens, drafts.
        verified: how many of them are no drafts.
        depths: of the new tokens.
        asked: of every position that is not verified yet, `(exit, bin, token)` of the exits asked there.
        chain: the chance that all drafts stand.
        waits: its newest position has exited nowhere: only the verifying pass gives its token.
        ended: how many tokens it had when a stopping criterion ended it; None before.
        drafted, accepted, expected: how many drafts there were, how many stood, and how many were expected to.
        stopped: drafts do not pay, and it has none.
        scores, logits: of the verified tokens, where they are kept.
    """

    tokens: list[int]
    verified: int
    depths: list[int] = field(default_factory=list)
    asked: list[list[tuple[int, int, int]]] = field(default_factory=list)
    chain: float = 1.0
    waits: bool = False
    ended: int | None = None
    drafted: int = 0
    accepted: int = 0
    expected: float = 0.0
    stopped: bool = False
    scores: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)

    @property
    def drafts(self) -> int:
        """Tokens that are not verified yet."""
        return len(self.tokens) - self.verified

    @property
    def trust(self) -> float:
        """How this row's drafts fare beside what was expected of them."""
        return min(1.0, (self.accepted + 4) / (self.expected + 4))
