"""p-values of "the expected loss exceeds the risk": exact binomial, Hoeffding-Bentkus (Bates et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsFloat


def check_bounds(risk: Any, confidence: Any) -> None:
    """Raises `ValueError` unless both are numbers between 0 and 1."""
    for name, value in (("risk", risk), ("confidence", confidence)):
        number = isinstance(value, SupportsFloat) and not isinstance(value, bool)
        if not number or not 0 < float(value) < 1:
            raise ValueError(
                f"{name} must lie between 0 and 1, got {value!r}{'' if number else ', which is no number'}"
            )


def examples_needed(risk: float, confidence: float) -> int:
    """Fewest examples at which no loss at all rejects "the expected loss exceeds risk": (1 - risk)^n <= 1 - confidence."""
    needed = math.log(1 - confidence) / math.log1p(-risk)
    return math.ceil(min(needed, 1e300) - 1e-9)  # not infinite for risks below 1e-307


def smallest_risk(examples: int, confidence: float) -> float:
    """The smallest risk that so many examples can certify, none of which lost anything: the inverse of `examples_needed`."""
    return -math.expm1(math.log(1 - confidence) / examples)


def risk_bound(losses: Sequence[float], confidence: float) -> float:
    """Upper bound of the expected loss: the smallest risk that a test of these losses alone rejects; 1 where none does.

    Args:
        losses: of examples, each in [0, 1].
        confidence: of the bound. It holds for one threshold that was fixed beforehand, not for the best of several.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(losses, middle) > 1 - confidence else (low, middle)
    return high


def p_value(losses: Sequence[float], risk: float) -> float:
    """p-value of "the expected loss is more than `risk`", in (0, 1).

    Raises:
        ValueError: no losses (no evidence for anything), or one outside [0, 1].
    """
    if not losses or not all(0 <= x <= 1 for x in losses):
        raise ValueError(f"a p-value needs losses, each in [0, 1]; got {len(losses)}, some of them outside or none")
    n, total = len(losses), sum(losses)
    if all(x in (0.0, 1.0) for x in losses):
        return binomial_cdf(round(total), n, risk)
    return hoeffding_bentkus(total / n, n, risk)


def hoeffding_bentkus(mean: float, n: int, risk: float) -> float:
    """The smaller of the tightened Hoeffding and the Bentkus bound (Bates et al. 2021, section 3.1).

    Args:
        mean: of the losses.
        n: how many.
        risk: the expected loss under the null hypothesis.
    """
    if mean >= risk:
        return 1.0
    kept = (1 - mean) * (math.log1p(-mean) - math.log1p(-risk))
    divergence = kept + (mean * math.log(mean / risk) if mean > 0 else 0.0)
    return min(math.exp(-n * divergence), math.e * binomial_cdf(math.ceil(n * mean - 1e-9), n, risk), 1.0)


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p), summed in logs.

    Args:
        k: successes.
        n: trials.
        p: probability of a success, in (0, 1).
    """
    if k >= n:
        return 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q
        for i in range(k + 1)
    ]
    top = max(terms)
    return min(1.0, math.exp(top) * sum(math.exp(t - top) for t in terms))


def upper_bound(k: int, n: int, confidence: float) -> float:
    """The largest probability of a success at which at most `k` in `n` are not too few (Clopper and Pearson 1934, one-sided).

    Args:
        k: successes.
        n: trials.
        confidence: of the bound.
    """
    low, high = 0.0, 1.0
    if k >= n:
        return high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(k, n, middle) > 1 - confidence else (low, middle)
    return high
