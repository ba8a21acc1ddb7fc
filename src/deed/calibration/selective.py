"""Selective answering: the confidence below which an answer is not given, so that few of those given are wrong.

Learn then Test (Angelopoulos et al. 2021) over the confidence. The hypothesis "of the answers with at least this confidence
more than `risk` are wrong" is tested by an exact binomial p-value: given how many answers there are, the wrong ones among
them are a binomial draw. Thresholds are tested from the one that an independent set found most likely to pass, toward looser
ones, until one fails (fixed-sequence testing: the order does not depend on the examples tested on).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .risk import binomial_cdf

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


def threshold_order(
    confidences: Any, right: Any, parts: Sequence[str], risk: float, confidence: float, share: float
) -> tuple[list[float], list[str]]:
    """The order in which thresholds are tested, and for which parts of the data the promise can be made by itself.

    Args:
        confidences: `[n]` of examples that the tests will not see, from models that have not seen them.
        right: `[n]`.
        parts: `[n]`, which part of the data (task) each is of.
        risk: share of wrong answers that is allowed.
        confidence: of the promise.
        share: how many examples there will be for the tests, per example here.

    Returns:
        Thresholds, falling; and the parts that look as if they kept the promise by themselves at some threshold. A part that
        does not (hardly one answer right at any confidence) would leave no threshold for the others, so it is left out, and
        what stays between it and a wrong answer is confidence itself: no threshold is then below 1 - `risk`.
    """
    values, truth, names = np.asarray(confidences), np.asarray(right, dtype=bool), np.asarray(parts)
    levels = np.quantile(values, np.linspace(0, 1, GRID + 1)[:-1])
    grid = sorted({_floor(level) for level in levels}, reverse=True)

    def likely(inside: Any) -> list[float]:  # p-values that as many tests would give as there will be examples
        found = []
        for level in grid:
            given = inside & (values >= level)
            n, wrong = share * given.sum(), share * (given & ~truth).sum()
            found.append(binomial_cdf(round(wrong), round(n), risk) if n >= 0.5 else 1.0)
        return found

    everything = np.ones(len(values), dtype=bool)
    several = sorted(set(parts)) if len(set(parts)) > 1 else []
    by_part = {part: likely(names == part) for part in several}
    promised = [part for part, found in by_part.items() if min(found) <= 1 - confidence]
    if len(promised) < len(several):
        high = [level for level in grid if level >= 1 - risk]
        grid = high or [1 - risk]
        by_part = {part: likely(names == part) for part in promised}
    worst = np.max([likely(everything), *(by_part[part] for part in promised)], axis=0)
    return grid[int(worst.argmin()) :], promised


def choose_threshold(
    confidences: Any,
    right: Any,
    parts: Sequence[str],
    order: Sequence[float],
    promised: Sequence[str],
    risk: float,
    confidence: float,
) -> tuple[float | None, list[dict[str, Any]]]:
    """The loosest threshold that keeps the promise for all examples together, and for each of the promised parts.

    Args:
        confidences: `[n]` of examples that neither the model nor the order has seen.
        right: `[n]`.
        parts: `[n]`.
        order: thresholds, falling; fixed before.
        promised: parts for which the promise holds by itself, too.
        risk: share of wrong answers that is allowed.
        confidence: of the promise.

    Returns:
        The threshold, None where the first one fails already; and for each one tested `{"threshold", "given", "wrong",
        "p_value", "accepted"}`, the p-value being the largest.
    """
    values, truth, names = np.asarray(confidences), np.asarray(right, dtype=bool), np.asarray(parts)
    sets = [np.ones(len(values), dtype=bool), *(names == part for part in promised)]
    chosen, tested = None, []
    for level in order:
        p = max(selective_p_value(values[inside], truth[inside], level, risk) for inside in sets)
        given = values >= level
        accepted = p <= 1 - confidence
        row = {"threshold": level, "given": int(given.sum()), "wrong": int((given & ~truth).sum()), "p_value": p}
        tested.append({**row, "accepted": accepted})
        if not accepted:
            break  # the promise holds only if nothing after the first failure is looked at
        chosen = level
    return chosen, tested


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


def _floor(value: float) -> float:
    """A threshold of four digits, not above the value."""
    return float(np.floor(value * 1e4) / 1e4)
