"""The most that a confidence can be, given logits with a bounded error: a row that this measure keeps, the exact head keeps.

Let l and u be lower and upper bounds of the logits. The probability of token i is greatest when its own logit is u_i and
all others are l: with q = softmax(l), its odds grow by at most exp(u_i - l_i), so that p_i is at most
q_i / (q_i + (1 - q_i) exp(l_i - u_i)). The least is the same with u and l exchanged. Sorted values are monotone: the
largest p is at most the largest upper bound, the second largest at least the second largest lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from deed.errors import DeedConfigError

from ..measures import Margin, MaxProb
from ..policy import ExitPolicy, FixedSchedule, ThresholdPolicy
from ..query import ExitQuery
from .two_stage import ApproximateQuery


@dataclass(frozen=True)
class UpperBound:
    """Upper bound of `MaxProb` or `Margin` over what an `Approximation` with `error` and `rounding` leaves possible."""

    margin: bool = False
    needs_history = False

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        assert isinstance(query, ApproximateQuery)
        seen, logits = query.approximation, query.masked_logits
        assert seen.error is not None and seen.rounding is not None
        # softmax sums up to V / 8 terms into one float, here and for the exact head.
        loss = 2 * (logits.shape[-1] / 8 + 32) * torch.finfo(torch.float32).eps
        width = seen.error[:, None]
        if seen.refined is not None:
            rounding = seen.rounding[:, None].expand(seen.refined.shape)
            width = width.expand(logits.shape).scatter(1, seen.refined, rounding)
        top = _moved((logits - width).softmax(-1), 2 * width).amax(-1) * (1 + loss)
        if not self.margin:
            return top
        second = _moved((logits + width).softmax(-1), -2 * width).topk(2, dim=-1).values[:, 1]
        return top - second * (1 - loss)


def _moved(p: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Probabilities whose odds are exp(`by`) times as large. What underflowed counts as the smallest number."""
    p = p.clamp(min=torch.finfo(p.dtype).tiny)
    return p / (p + (1 - p) * torch.exp(-by))


def bounded(policy: ExitPolicy) -> ExitPolicy:
    """`policy` with the upper bound of its measure.

    Raises:
        DeedConfigError: its measure has no bound here.
    """
    if isinstance(policy, FixedSchedule):
        return policy
    if isinstance(policy, ThresholdPolicy) and isinstance(policy.confidence, (MaxProb, Margin)):
        return replace(policy, confidence=UpperBound(isinstance(policy.confidence, Margin)))
    raise DeedConfigError(
        'exit_check "screen" with bound=True bounds confidence "max_prob" and "margin" under a threshold'
    )
