"""What an exit says when exact decoding asks it for drafts: who leaves there, what is drafted, and how likely drafts stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from deed.policies import policy as policies
from deed.policies.query import ExitQuery

from .exact_choice import confident
from .exact_tuning import Tuner, bin_of


class Answer(NamedTuple):
    """One exit's answer about the rows that have come to it.

    Attributes:
        exits: of each row, whether it leaves.
        go_on: whether the pass goes on to deeper layers.
        drafted: which of the rows a token is wanted of: those that leave, or all, so that the exit's worth is learnt.
        logits: `[drafted, vocab]`; None where there are none.
        best: `[rows]` long, the token of the largest logit, where it is known.
        chances: of each row, that its draft stands.
        bins: of each row's confidence, for what is learnt.
        checked: rows for which the head was run beside `query.computed`.
    """

    exits: list[bool]
    go_on: bool
    drafted: list[int]
    logits: torch.Tensor | None
    best: torch.Tensor | None
    chances: list[float]
    bins: list[int]
    checked: int = 0


def by_worth(
    query: ExitQuery, policy: Any, gate: Any, tuner: Tuner, trusts: Sequence[float], decoding: int, sparing: bool
) -> Answer:
    """Under a plain threshold: rows leave where the clock says that drafting here pays; until the tuner is warm, by the
    threshold.

    Args:
        query: the exit's.
        policy: the threshold.
        gate: its measure, if that is a gate; else None.
        tuner: knows what passes cost, and how drafts fared.
        trusts: of each row, the chance that all of its drafts so far stand.
        decoding: rows that have not finished.
        sparing: no tokens for rows that stay.
    """
    best = None
    if gate is not None:  # no head, nor the exit's own layer, for rows that do not exit
        values = gate(query).tolist()
    else:
        # Whatever the policy's measure: the largest probability tells best whether the last layer will agree.
        values, best = confident(query.masked_logits)
    chances, go_on = [tuner.chance(query.exit_index, c) for c in values], True
    if tuner.warm:
        exits, go_on = tuner.goes_up(query.exit_index, list(zip(trusts, chances, strict=True)), decoding)
    else:
        exits = policy.leaves(query).tolist()
    drafted = leaving(exits) if sparing or gate is not None else list(range(len(exits)))
    bins = [bin_of(c) for c in values]
    if gate is not None:
        logits = _logits_at(query, drafted) if drafted else None
        return Answer(exits, go_on, drafted, logits, best, chances, bins, len(drafted))
    some = query.logits if len(drafted) == len(exits) else query.logits[drafted]
    return Answer(exits, go_on, drafted, some, best, chances, bins)


def by_policy(query: ExitQuery, policy: Any, tuner: Tuner) -> Answer:
    """Under any other policy: rows leave where it says so.

    Args:
        query: the exit's.
        policy: decides.
        tuner: knows how drafts fared.
    """
    decision = policies.decide(policy, query)
    exits = decision.leave.tolist()
    drafted = leaving(exits)
    logits = decision.logits_of(drafted)
    if drafted and logits is None:
        logits = _logits_at(query, drafted)
    chances, bins = [tuner.chance(query.exit_index, 0.5)] * len(exits), [bin_of(0.5)] * len(exits)
    return Answer(exits, True, drafted, logits, None, chances, bins)


def leaving(exits: Sequence[bool]) -> list[int]:
    """Numbers of the rows that leave."""
    return [i for i, leaves in enumerate(exits) if leaves]


def _logits_at(query: ExitQuery, rows: list[int]) -> torch.Tensor:
    return query.logits_at(torch.tensor(rows, device=query.hidden.device))


__all__ = ["Answer", "by_policy", "by_worth"]
