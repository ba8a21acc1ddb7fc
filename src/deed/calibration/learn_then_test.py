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

from deed.constants import NEVER_EXIT
from deed.errors import CalibrationError
from deed.utils.progress import SILENT, shown

from .answering import generate_all, label_tokens, strip_padding
from .encode_once import encoding_once
from .exit_check import plain_values, set_exit_check, take_exit_check
from .risk import check_bounds, examples_needed, p_value, smallest_risk, upper_bound
from .teacher_forcing import evaluating

# From strict to loose. Confidence of a trained model crowds near 1, so the grid does too.
GRID = (0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

Score = Callable[[list[int], dict[str, Any]], float]


def calibrate(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    risk: float = 0.05,
    confidence: float = 0.95,
    *,
    score: Score | None = None,
    thresholds: Sequence[float] = GRID,
    batch_size: int = 32,
    progress: Callable[[str], None] | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Choose `model.deed_config.threshold` on held-out examples.

    With probability at least `confidence` over the calibration examples, early exit at the chosen threshold lowers the
    expected score by at most `risk` against full depth, for new examples from the same distribution.

    Args:
        model: a deed model; `model.deed_config.threshold` and `.calibration` are set, and saved with it; so are the exit
            check and `confidence_over`, where they are among `generate_kwargs`: the promise holds with them only.
        dataset: examples as `{"input_ids": [..], "labels": [..]}` (other encoder inputs as tensors without batch axis).
            `decoder_input_ids`, a prompt of the answer, may differ in length. Labels may be filled up with -100 or with
            the pad token.
        risk: allowed drop of the mean score, in (0, 1).
        confidence: in (0, 1).
        score: maps generated tokens (up to and with the end token) and the example to [0, 1]. Default: 1 if they equal
            the labels; for an example without labels, 1 if they equal what full depth generates.
        thresholds: the grid, tested in falling order. Values in (0, 1].
        batch_size: rows generated at once.
        progress: called with a line per threshold; default: a progress bar where stderr is a terminal.
        generate_kwargs: passed to `generate()`; calibrate with what you will use.

    Returns:
        The report: chosen `threshold`, `risk`, `confidence`, `examples`, scores, `mean_depth`, the settings that the
        promise depends on (`measure`, `confidence_over`, `exit_check`, `draft_head`, `threshold_decay`, `exit_layers`,
        `generate`), and per threshold tested `{"threshold", "score", "loss", "disagreement", "p_value", "mean_depth",
        "accepted"}`. `disagreement` is the share of answers that differ from full depth's, and `disagreement_bound`
        its upper bound at the chosen threshold (exact binomial, at `confidence`), which `deed serve` watches. Where no
        threshold passes, the model is left never to exit early (threshold 2.0).

    Raises:
        CalibrationError: too few examples for `risk` and `confidence`, even if none lost anything, or examples that were
            not answered.
        ValueError: a bound that is no number, or a bound, a grid or a batch size out of range.

    Example:
        ```python
        # Examples without labels count as right where the tokens equal those of full depth.
        report = deed.calibrate(model, held_out, risk=0.05, confidence=0.95, max_new_tokens=8)
        assert model.deed_config.threshold == report["threshold"]
        ```
    """
    check_bounds(risk, confidence)
    grid = sorted({float(t) for t in thresholds}, reverse=True)
    if not grid or not all(0 < t <= 1 for t in grid):
        raise ValueError(f"thresholds must be numbers in (0, 1], got {list(thresholds)!r}")
    for name in ("exit_threshold", "exit_policy"):
        if name in generate_kwargs:
            raise ValueError(f"{name} is what calibrate chooses; leave it out, or pass thresholds=[…] to test")
    examples = list(dataset)
    needed = examples_needed(risk, confidence)
    if len(examples) < needed:
        raise CalibrationError(
            f"risk {risk} at confidence {confidence} needs at least {needed:g} examples (even without one loss), "
            f"got {len(examples)}; add examples or promise less"
            + (f" (at best a risk of {smallest_risk(len(examples), confidence) + 5e-5:.4f})" if examples else "")
        )
    answers = len(examples) * (1 + len(grid))
    with (
        evaluating(model),
        encoding_once(model),
        shown(None if progress is None else SILENT) as bars,
        bars.bar("calibrating", total=answers) as bar,
    ):

        def answer(threshold: float) -> tuple[list[list[int]], float]:
            return generate_all(model, examples, threshold, batch_size, generate_kwargs, bar.advance)

        found = _learn_then_test(model, examples, risk, confidence, score, grid, answer, progress or bars.note)
    config = model.deed_config
    config.confidence_over = generate_kwargs.get("confidence_over") or config.confidence_over
    set_exit_check(config, take_exit_check(generate_kwargs))
    report = {
        **found,
        "measure": config.confidence,
        "confidence_over": config.confidence_over,
        "exit_check": config.exit_check,
        "draft_head": config.draft_head,
        "threshold_decay": config.threshold_decay,
        "exit_layers": list(config.exit_layers),
        "generate": plain_values(generate_kwargs),
    }
    config.threshold, config.calibration = report["threshold"], report
    return report


def _learn_then_test(
    model: Any,
    examples: list[dict[str, Any]],
    risk: float,
    confidence: float,
    score: Score | None,
    grid: list[float],
    answer: Callable[[float], tuple[list[list[int]], float]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    full, full_depth = answer(NEVER_EXIT)
    full_scores = [score_example(model, score, a, x, a) for a, x in zip(full, examples, strict=True)]
    full_mean = sum(full_scores) / len(examples)
    say(f"full depth: score {full_mean:.4f}")
    if full_mean <= risk:
        warnings.warn(
            f"full depth scores {full_mean:.4f} on the calibration set, so a drop of {risk} is no promise at all; "
            "pass a score that fits the task, or leave labels out to calibrate on agreement with full depth",
            stacklevel=3,
        )
    chosen: dict[str, Any] = {
        "threshold": NEVER_EXIT,
        "score": full_mean,
        "mean_depth": full_depth,
        "disagreement": 0.0,
    }
    tested = []
    for threshold in grid:
        early, depth = answer(threshold)
        scores = [score_example(model, score, e, x, f) for e, x, f in zip(early, examples, full, strict=True)]
        losses = [max(0.0, f - s) for f, s in zip(full_scores, scores, strict=True)]
        p = p_value(losses, risk)
        row = {
            "threshold": threshold,
            "score": sum(scores) / len(scores),
            "loss": sum(losses) / len(losses),
            "disagreement": sum(e != f for e, f in zip(early, full, strict=True)) / len(full),
            "p_value": p,
            "mean_depth": depth,
            "accepted": p <= 1 - confidence,
        }
        tested.append(row)
        say(
            f"threshold {threshold:g}: score {row['score']:.4f}, mean depth {depth:.2f}; p-value {p:.3g} for losing more "
            f"than {risk:g}: {'accepted' if row['accepted'] else 'not accepted'} (limit {1 - confidence:.3g})"
        )
        if not row["accepted"]:
            break  # the bound holds only if nothing after the first failure is looked at
        chosen = row
    return {
        "threshold": chosen["threshold"],
        "risk": risk,
        "confidence": confidence,
        "method": "learn-then-test, fixed sequence",
        "examples": len(examples),
        "full_depth_score": full_mean,
        "score": chosen["score"],
        "mean_depth": chosen["mean_depth"],
        "disagreement_bound": upper_bound(round(chosen["disagreement"] * len(examples)), len(examples), confidence),
        "tested": tested,
    }


def score_example(
    model: Any, score: Score | None, tokens: list[int], example: dict[str, Any], full: list[int]
) -> float:
    """Score of an answer, in [0, 1].

    Args:
        model: whose pad token may fill up labels.
        score: as for `calibrate`; None: whether the tokens are those of the labels, or where there are none, of `full`.
        tokens: generated.
        example: with or without `labels`.
        full: what full depth generated.

    Raises:
        ValueError: a score outside [0, 1].
    """
    if score is not None:
        value = float(score(tokens, example))
        if not 0 <= value <= 1:
            raise ValueError(f"score must return a value in [0, 1], got {value}")
        return value
    labels = example.get("labels")
    if labels is None:
        return float(tokens == full)
    return float(strip_padding(model, tokens) == label_tokens(model, labels))
