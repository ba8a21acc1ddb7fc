"""Whether confidence means what it says: expected calibration error, and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> dict[str, Any]:
    """How far confidence is from the share of right answers.

    Expected calibration error (Naeini et al. 2015; Guo et al. 2017): examples are put into bins by their confidence, and the
    gaps between mean confidence and share of right answers are averaged, weighted by the examples in a bin.

    Args:
        confidences: `[n]` in [0, 1].
        right: `[n]`.
        bins: how many.

    Returns:
        `ece` over bins of equal width, `adaptive_ece` over bins of equally many examples, `brier` (mean squared error),
        `auroc` (how often a right answer has more confidence than a wrong one; None where there are none of either),
        `examples`, `accuracy`, `mean_confidence`, and `bins`: of each that is not empty `{"from", "to", "examples",
        "confidence", "accuracy"}`.

    Raises:
        ValueError: no examples, not as many of both, or a confidence outside [0, 1].
    """
    values, truth = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=bool)
    if not len(values) or values.shape != truth.shape or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"reliability needs a confidence in [0, 1] for each answer, got {len(values)} for {len(truth)} answers"
        )
    place = np.minimum((values * bins).astype(int), bins - 1)
    table = []
    for k in range(bins):
        inside = place == k
        if inside.any():
            row = {"from": k / bins, "to": (k + 1) / bins, "examples": int(inside.sum())}
            table.append({**row, "confidence": float(values[inside].mean()), "accuracy": float(truth[inside].mean())})
    parts = np.array_split(np.argsort(values, kind="stable"), min(bins, len(values)))
    adaptive = sum(abs(values[part].mean() - truth[part].mean()) * len(part) for part in parts) / len(values)
    gaps = [abs(row["confidence"] - row["accuracy"]) * row["examples"] for row in table]
    return {
        "examples": len(values),
        "accuracy": float(truth.mean()),
        "mean_confidence": float(values.mean()),
        "ece": float(sum(gaps) / len(values)),
        "adaptive_ece": float(adaptive),
        "brier": float(((values - truth) ** 2).mean()),
        "auroc": _auroc(values, truth),
        "bins": table,
    }


def _auroc(values: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float | None:
    high, low = values[truth], values[~truth]
    if not len(high) or not len(low):
        return None
    low = np.sort(low)
    below, up_to = np.searchsorted(low, high, side="left"), np.searchsorted(low, high, side="right")
    return float((below + up_to).mean() / 2 / len(low))
