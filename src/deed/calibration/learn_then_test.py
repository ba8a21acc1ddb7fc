"""Calibration: the loosest threshold whose loss of score is bounded with stated confidence (Learn then Test).

Thresholds are tested from strict to loose, each by a p-value for "the expected loss exceeds `risk`"; the first that
cannot be rejected ends the sequence, so no correction for multiple tests is needed (fixed-sequence testing, Angelopoulos
et al. 2021, section 4). An example's loss is how much of its score at full depth early exit costs, max(0, full - early)
in [0, 1]; bounding its mean bounds the drop of the mean score. p-values: exact binomial where losses are 0 or 1,
Hoeffding-Bentkus otherwise (Bates et al. 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deed.calibration.answering import generate_all
from deed.calibration.risk import examples_needed, p_value
from deed.constants import NEVER_EXIT
from deed.errors import CalibrationError

from .teacher_forcing import evaluating

# From strict to loose. Confidence of a trained model crowds near 1, so the grid does too.
GRID = (0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def calibrate(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    risk: float = 0.05,
    confidence: float = 0.95,
    *,
    score: Callable[[list[int], dict[str, Any]], float] | None = None,
    thresholds: Sequence[float] = GRID,
    batch_size: int = 32,
    progress: Callable[[str], None] | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Choose `model.deed_config.threshold` on held-out examples.

    With probability at least `confidence` over the calibration examples, early exit at the chosen threshold lowers the
    expected score by at most `risk` against full depth, for new examples from the same distribution.

    Args:
        model: a deed model; `model.deed_config.threshold` and `.calibration` are set, and saved with it.
        dataset: examples as `{"input_ids": [..], "labels": [..]}` (other encoder inputs as tensors without batch axis).
        risk: allowed drop of the mean score, in (0, 1).
        confidence: in (0, 1).
        score: maps generated tokens (up to and with the end token) and the example to [0, 1]. Default: 1 if they equal
            the labels; for an example without labels, 1 if they equal what full depth generates.
        thresholds: the grid, tested in falling order. Values in (0, 1].
        batch_size: rows generated at once.
        progress: called with a line per threshold.
        generate_kwargs: passed to `generate()`; calibrate with what you will use.

    Returns:
        The report: chosen `threshold`, `risk`, `confidence`, `examples`, scores, `mean_depth`, and per threshold tested
        `{"threshold", "score", "loss", "p_value", "mean_depth", "accepted"}`. Where no threshold passes, the model is
        left never to exit early (threshold 2.0).

    Raises:
        CalibrationError: too few examples for `risk` and `confidence`, even if none lost anything.
        ValueError: a bound or a grid out of range.
    """
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    grid = sorted({float(t) for t in thresholds}, reverse=True)
    if not grid or not all(0 < t <= 1 for t in grid):
        raise ValueError(f"thresholds must be numbers in (0, 1], got {list(thresholds)!r}")
    examples = list(dataset)
    needed = examples_needed(risk, confidence)
    if len(examples) < needed:
        raise CalibrationError(
            f"risk {risk} at confidence {confidence} needs at least {needed} examples (even without one loss), "
            f"got {len(examples)}; add examples or promise less"
        )
    say = progress or (lambda line: None)
    with evaluating(model):
        report = _learn_then_test(model, examples, risk, confidence, score, grid, batch_size, say, generate_kwargs)
    model.deed_config.threshold = report["threshold"]
    model.deed_config.calibration = report
    return report


def _learn_then_test(
    model: Any,
    examples: list[dict[str, Any]],
    risk: float,
    confidence: float,
    score: Callable[[list[int], dict[str, Any]], float] | None,
    grid: list[float],
    batch_size: int,
    say: Callable[[str], None],
    generate_kwargs: dict[str, Any],
) -> dict[str, Any]:
    full, _ = generate_all(model, examples, NEVER_EXIT, batch_size, generate_kwargs)
    full_scores = [
        score_example(score, tokens, example, tokens) for tokens, example in zip(full, examples, strict=True)
    ]
    full_mean = sum(full_scores) / len(examples)
    say(f"full depth: score {full_mean:.4f}")
    if full_mean <= risk:
        warnings.warn(
            f"full depth scores {full_mean:.4f} on the calibration set, so a drop of {risk} is no promise at all; "
            "pass a score that fits the task, or leave labels out to calibrate on agreement with full depth",
            stacklevel=3,
        )

    chosen, rows = None, []
    for threshold in grid:
        early, depth = generate_all(model, examples, threshold, batch_size, generate_kwargs)
        scores = [score_example(score, e, x, f) for e, x, f in zip(early, examples, full, strict=True)]
        losses = [max(0.0, f - s) for f, s in zip(full_scores, scores, strict=True)]
        p = p_value(losses, risk)
        row = {
            "threshold": threshold,
            "score": sum(scores) / len(scores),
            "loss": sum(losses) / len(losses),
            "p_value": p,
            "mean_depth": depth,
            "accepted": p <= 1 - confidence,
        }
        rows.append(row)
        say(f"threshold {threshold:g}: score {row['score']:.4f}, mean depth {depth:.2f}, p {p:.3g}")
        if not row["accepted"]:
            break
        chosen = row
    return {
        "threshold": chosen["threshold"] if chosen else NEVER_EXIT,
        "risk": risk,
        "confidence": confidence,
        "method": "learn-then-test, fixed sequence",
        "examples": len(examples),
        "measure": model.deed_config.confidence,
        "asking": model.deed_config.asking,
        "full_depth_score": full_mean,
        "score": chosen["score"] if chosen else full_mean,
        "mean_depth": chosen["mean_depth"] if chosen else float(len(model.deed_family.layers(model))),
        "tested": rows,
    }


def score_example(score: Any, tokens: list[int], example: dict[str, Any], full: list[int]) -> float:
    if score is not None:
        value = float(score(tokens, example))
        if not 0 <= value <= 1:
            raise ValueError(f"score must return a value in [0, 1], got {value}")
        return value
    target = example.get("labels")
    return float(tokens == (full if target is None else [int(t) for t in target if int(t) >= 0]))
