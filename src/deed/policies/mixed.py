"""`MixedPolicy`: rows under different exit policies in one batch, each asked about its own rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .measures import needs_history
from .policy import ExitPolicy, decide, join, keep
from .query import ExitDecision, ExitQuery


class MixedPolicy:
    """Exit policies side by side. Those that `policy.join` can put together decide as one.

    Args:
        policies: each already begun.
        owners: `[rows]`, the index in `policies` of each row's; a policy's own rows keep the batch's order.
    """

    def __init__(self, policies: Sequence[ExitPolicy], owners: Sequence[int]) -> None:
        self.policies, self.owners = list(policies), list(owners)
        self.needs_history = any(needs_history(policy) for policy in self.policies)
        self.exits_early = any(getattr(policy, "exits_early", True) for policy in self.policies)
        counts = [0] * len(self.policies)
        self._own: list[int] = []  # of each row, its number among its policy's rows
        for owner in self.owners:
            self._own.append(counts[owner])
            counts[owner] += 1
        self._counts = counts

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool, see `decide`."""
        return self.decide(query).leave

    def decide(self, query: ExitQuery) -> ExitDecision:
        """Each policy's decision about its own rows, put together."""
        if len(self.policies) == 1:
            return decide(self.policies[0], query)
        rows = query.rows.tolist()
        leave = torch.zeros(len(rows), dtype=torch.bool, device=query.rows.device)
        known: list[torch.Tensor] = []  # places in the query's rows whose logits were computed
        logits: list[torch.Tensor] = []
        for g, policy in enumerate(self.policies):
            at = [i for i, r in enumerate(rows) if self.owners[r] == g]
            if not at or not getattr(policy, "exits_early", True):
                continue
            picked = torch.tensor(at, device=query.rows.device)
            part = query.only(picked)
            part.rows = torch.tensor([self._own[rows[i]] for i in at], device=query.rows.device)
            found = decide(policy, part)
            leave[picked] = found.leave
            if found.logits is not None:
                known.append(picked if found.rows is None else picked[found.rows])
                logits.append(found.logits)
        if not known:
            return ExitDecision(leave)
        unknown = leave.clone()
        unknown[torch.cat(known)] = False
        if bool(unknown.any()):  # those of a schedule; a decision has the logits of every leaving row, or of none
            known.append(unknown.nonzero()[:, 0])
            logits.append(query.logits_at(known[-1]))
        places, order = torch.cat(known).sort()
        return ExitDecision(leave, places, torch.cat(logits)[order])

    def keep(self, rows: list[int]) -> MixedPolicy:
        """These policies for some of the rows, in the order given."""
        left: list[ExitPolicy] = []
        owners = [0] * len(rows)
        for g, policy in enumerate(self.policies):
            at = [i for i, r in enumerate(rows) if self.owners[r] == g]
            if at:
                for i in at:
                    owners[i] = len(left)
                left.append(keep(policy, [self._own[rows[i]] for i in at]))
        return MixedPolicy(left, owners)

    def join(self, other: ExitPolicy, n_rows: int, n_other: int) -> MixedPolicy:
        """These policies for their rows, `other` for those that follow.

        Args:
            other: of the rows that join; may be mixed itself.
            n_rows: how many these decide for.
            n_other: how many join.
        """
        if not isinstance(other, MixedPolicy):
            other = MixedPolicy([other], [0] * n_other)
        policies, counts, renamed = list(self.policies), list(self._counts), []
        for policy, count in zip(other.policies, other._counts, strict=True):
            for g, mine in enumerate(policies):
                try:
                    policies[g] = join(mine, policy, counts[g], count)
                except ValueError:
                    continue
                counts[g] += count
                renamed.append(g)
                break
            else:
                policies.append(policy)
                counts.append(count)
                renamed.append(len(policies) - 1)
        return MixedPolicy(policies, [*self.owners, *(renamed[g] for g in other.owners)])
