"""Timestamps of Whisper come from the last layer: an exit that would say one does not let the row leave.

What a wrong word costs is a word; a wrong time cuts a long recording in the wrong place, or has a chunk end at thirty seconds.
So where timestamps are asked for, a row goes on where the exit finds a timestamp more likely than any text, by the rule by
which Whisper's authors then allow nothing else (whisper/decoding.py, ApplyTimestampRules).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .policy import ExitPolicy, begin, decide, join, keep
from .query import ExitDecision, ExitQuery


@dataclass
class DeepTimestamps:
    """Another policy, but for timestamps.

    Args:
        policy: the other.
        first: id of the first timestamp, after which there are no others.
    """

    policy: ExitPolicy
    first: int

    def __post_init__(self) -> None:
        self.exits_early: bool = getattr(self.policy, "exits_early", True)
        self.needs_history: bool = self.policy.needs_history

    def begin(self, n_rows: int) -> DeepTimestamps:
        """This policy for `n_rows` decoder rows."""
        return replace(self, policy=begin(self.policy, n_rows))

    def keep(self, rows: list[int]) -> DeepTimestamps:
        """This policy for some of its rows."""
        return replace(self, policy=keep(self.policy, rows))

    def join(self, other: ExitPolicy, n_rows: int, n_other: int) -> DeepTimestamps:
        """This policy for its rows, `other` for those that follow them.

        Args:
            other: of the rows that join.
            n_rows: how many this one decides for.
            n_other: how many join.

        Raises:
            ValueError: `other` is of rows without timestamps, or the two do not go together.
        """
        if not isinstance(other, DeepTimestamps) or other.first != self.first:
            raise ValueError("rows with timestamps and rows without cannot share a policy")
        return replace(self, policy=join(self.policy, other.policy, n_rows, n_other))

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool, see `decide`."""
        return self.decide(query).leave

    def decide(self, query: ExitQuery) -> ExitDecision:
        """As the other, but rows stay whose next token is a timestamp."""
        decision = decide(self.policy, query)
        leaving = decision.leave.nonzero()[:, 0]
        if not len(leaving):
            return decision
        logits = decision.logits_of(leaving.tolist())
        if logits is None:
            logits = query.logits_at(leaving)
            decision = ExitDecision(decision.leave, leaving, logits)
        stays = logits[:, self.first :].logsumexp(-1) > logits[:, : self.first].amax(-1)
        leave = decision.leave.clone()
        leave[leaving[stays]] = False
        return replace(decision, leave=leave)
