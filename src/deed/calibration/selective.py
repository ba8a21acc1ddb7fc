"""Selective answering: the confidence below which an answer is not given, so that few of those given are wrong.

Learn then Test (Angelopoulos et al. 2021) over the confidence. The hypothesis "of the answers with at least this confidence
more than `risk` are wrong" is tested by an exact binomial p-value: given how many answers there are, the wrong ones among
them are a binomial draw. Thresholds are tested from the one that an independent set found most likely to pass, toward looser
ones, until one fails (fixed-sequence testing: the order does not depend on the examples tested on).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .risk import binomial_cdf

ALL = ""  # all parts of the data together
GRID = 60  # thresholds at most; quantiles of the confidences of the independent set


def selective_p_value(confidences: Any, right: Any, threshold: float, risk: float) -> float:
    """p-value of "of the answers with confidence of at least `threshold`, more than `risk` are wrong"; 1 where none is given.

    Args:
        confidences: `[n]`.
        right: `[n]` bool.
        threshold: confidence from which an answer is given.
        risk: share of wrong ones under the null hypothesis.
    """
    given = np.asarray(confidences) >= threshold
    wrong = int((given & ~np.asarray(right, dtype=bool)).sum())
    return binomial_cdf(wrong, int(given.sum()), risk) if given.any() else 1.0


def threshold_orders(
    confidences: Any, right: Any, parts: Sequence[str], risk: float, confidence: float, share: float
) -> dict[str, list[float]]:
    """In which order thresholds are tested, for all examples together (`ALL`) and for each part of the data.

    Each order begins at the threshold that is most likely to pass, or at a stricter one of at least 1 - `risk` that is
    likely to, and falls from there.

    Args:
        confidences: `[n]` of examples that the tests will not see, from models that have not seen them.
        right: `[n]`.
        parts: `[n]`, which part of the data (task) each is of; the same for all: there are no parts.
        risk: share of wrong answers that is allowed.
        confidence: of the promise.
        share: how many examples there will be for the tests, per example here.
    """
    values, truth, names = np.asarray(confidences), np.asarray(right, dtype=bool), np.asarray(parts)
    levels = np.quantile(values, np.linspace(0, 1, GRID + 1)[:-1])
    grid = sorted({1 - risk, *(float(np.floor(level * 1e4) / 1e4) for level in levels)}, reverse=True)

    def order(inside: Any) -> list[float]:
        likely = []  # p-values that the tests would give if shares stayed the same
        for level in grid:
            given = inside & (values >= level)
            n, wrong = share * given.sum(), share * (given & ~truth).sum()
            likely.append(binomial_cdf(round(wrong), round(n), risk) if n >= 0.5 else 1.0)
        high = grid.index(1 - risk)
        start = int(np.argmin(likely))
        return grid[min(start, high) if likely[high] <= (1 - confidence) / 2 else start :]

    orders = {ALL: order(np.ones(len(values), dtype=bool))}
    return {**orders, **{part: order(names == part) for part in sorted(set(parts))}} if len(set(parts)) > 1 else orders


def accepted_thresholds(
    confidences: Any, right: Any, order: Sequence[float], risk: float, confidence: float
) -> tuple[list[float], list[dict[str, Any]]]:
    """The thresholds of `order` up to the first that fails.

    Args:
        confidences: `[n]` of examples that neither the model nor the order has seen.
        right: `[n]`.
        order: thresholds, falling; fixed before.
        risk: share of wrong answers that is allowed.
        confidence: of the promise.

    Returns:
        Those accepted; and for each one tested `{"threshold", "given", "wrong", "p_value", "accepted"}`.
    """
    values, truth = np.asarray(confidences), np.asarray(right, dtype=bool)
    accepted, tested = [], []
    for level in order:
        p, given = selective_p_value(values, truth, level, risk), values >= level
        row = {"threshold": level, "given": int(given.sum()), "wrong": int((given & ~truth).sum()), "p_value": p}
        tested.append({**row, "accepted": p <= 1 - confidence})
        if p > 1 - confidence:
            break  # the promise holds only if nothing after the first failure is looked at
        accepted.append(level)
    return accepted, tested


def choose_threshold(
    confidences: Any,
    right: Any,
    parts: Sequence[str],
    orders: Mapping[str, Sequence[float]],
    risk: float,
    confidence: float,
) -> tuple[float | None, list[str], list[dict[str, Any]]]:
    """The loosest threshold that keeps the promise for all examples together, and by itself for every part that can keep it.

    Each promise holds with the stated confidence by its own sequence of tests; which of the accepted thresholds is taken
    may therefore depend on all of them. Where a part can keep no promise (hardly an answer is right there at any
    confidence), nothing but confidence itself stands between it and a wrong answer, so no threshold below 1 - `risk` is
    taken then.

    Args:
        confidences: `[n]` of examples that neither the model nor the orders have seen.
        right: `[n]`.
        parts: `[n]`.
        orders: of `threshold_orders`.
        risk: share of wrong answers that is allowed.
        confidence: of the promise.

    Returns:
        The threshold, None where there is none; the parts for which it keeps the promise by themselves; and the tests on all
        examples, as `accepted_thresholds` has them.
    """
    values, truth, names = np.asarray(confidences), np.asarray(right, dtype=bool), np.asarray(parts)
    allowed, tested = accepted_thresholds(values, truth, orders[ALL], risk, confidence)
    promised = []
    for part in orders:
        if part != ALL:
            inside = names == part
            passed = accepted_thresholds(values[inside], truth[inside], orders[part], risk, confidence)[0]
            if common := [level for level in allowed if level in passed]:
                allowed = common
                promised.append(part)
    if len(promised) < len(orders) - 1:
        allowed = [level for level in allowed if level >= 1 - risk]
    return (allowed[-1] if allowed else None), promised, tested


def selective_risk(confidences: Any, right: Any, threshold: float) -> dict[str, Any]:
    """What giving answers from a threshold on comes to.

    Args:
        confidences: `[n]`, at least one.
        right: `[n]` bool.
        threshold: confidence from which an answer is given.

    Returns:
        `coverage` (share of answers given), `given`, and `selective_risk` (share of wrong ones among them; None where none
        is given).
    """
    values, truth = np.asarray(confidences), np.asarray(right, dtype=bool)
    given = values >= threshold
    count = int(given.sum())
    return {
        "coverage": count / len(values),
        "given": count,
        "selective_risk": float((~truth[given]).mean()) if count else None,
    }
