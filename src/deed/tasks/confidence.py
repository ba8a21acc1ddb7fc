"""Answers with their confidence: calibrating it on tasks, and what abstaining comes to on examples with right answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deed.calibration.answering import collate
from deed.calibration.calibrate_answers import Answered, answer_to_calibrate, set_answer_calibration
from deed.calibration.reliability import reliability
from deed.calibration.risk import check_bounds
from deed.calibration.selective import selective_risk
from deed.calibration.teacher_forcing import evaluating
from deed.modeling.answer_confidence import confidence_problem
from deed.modeling.model import DeedMixin

from .protocol import Task


@dataclass(frozen=True)
class Answer:
    """An answer, and how far it is to be trusted.

    Attributes:
        value: of `Task.answer`: a text, or what else the task's answers are.
        tokens: generated, up to and with the end token.
        confidence: how likely it is to be right; None where answers are not calibrated for these settings.
        sure: whether the confidence is at least `abstain_below`; False where there is none.
    """

    value: Any
    tokens: list[int]
    confidence: float | None = None
    sure: bool = False


def check_abstain_below(value: float | None) -> None:
    """Raises `ValueError` unless this is None or a number of at least 0 (above 1: never sure)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and math.isfinite(value) and value >= 0):
        raise ValueError(f"abstain_below must be a number of at least 0 (above 1: never sure), got {value!r}")


def abstain_threshold(model: Any, given: float | None = None) -> float | None:
    """The confidence from which an answer is sure; None where answers are not calibrated.

    Args:
        model: with early exit or plain.
        given: in place of the calibrated one.

    Raises:
        ValueError: a value that is no number of at least 0, or one for a model whose answers are not calibrated.
    """
    check_abstain_below(given)
    stored = model.deed_config.answer_calibration if isinstance(model, DeedMixin) else None
    if stored is None:
        if given is not None:
            raise ValueError(
                "abstain_below needs calibrated answers, and this model's are not: deed calibrate FOLDER --answers"
            )
        return None
    return float(stored["abstain_below"] if given is None else given)


def asks_for_confidence(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`options` of `generate()`, asking for the confidence of answers where the model's calibration holds for them."""
    if not isinstance(model, DeedMixin) or confidence_problem(model, options):
        return options
    return {**options, "answer_confidence": True}


def with_confidence(
    values: Sequence[Any], tokens: Sequence[list[int]], confidences: Sequence[float] | None, threshold: float | None
) -> list[Answer]:
    """Answers as objects.

    Args:
        values: of `Task.answer`.
        tokens: of each.
        confidences: of each; None where there are none.
        threshold: of `abstain_threshold`.
    """
    if confidences is None or threshold is None:
        return [Answer(value, ids) for value, ids in zip(values, tokens, strict=True)]
    return [
        Answer(value, ids, confidence, confidence >= threshold)
        for value, ids, confidence in zip(values, tokens, confidences, strict=True)
    ]


def are_right(task: Task, answers: Sequence[Any], examples: Sequence[Any]) -> list[bool]:
    """Whether each answer is right, by the task.

    Args:
        task: whose metric it is.
        answers: of `Task.answer`.
        examples: closed.
    """
    values = task.score(answers, examples)
    return [task.acceptable(a, x, v) for a, x, v in zip(answers, examples, values, strict=True)]


def abstaining(
    task: Task, answers: Sequence[Answer], examples: Sequence[Any], threshold: float
) -> dict[str, Any] | None:
    """What confidence comes to on examples with right answers; None where answers have none.

    Args:
        task: says what is right.
        answers: to the examples.
        examples: closed.
        threshold: of `abstain_threshold`.

    Returns:
        `abstain_below`, `right` (share of all answers), `coverage` (share of answers that are sure), `given`,
        `selective_risk` (share of wrong ones among those; None where none is sure), `ece` and `adaptive_ece`.
    """
    confidences = [answer.confidence for answer in answers]
    if not answers or any(confidence is None for confidence in confidences):
        return None
    truth = are_right(task, [answer.value for answer in answers], examples)
    found = reliability(confidences, truth)  # type: ignore[arg-type]
    return {
        "abstain_below": threshold,
        "right": found["accuracy"],
        **selective_risk(confidences, truth, threshold),
        "ece": found["ece"],
        "adaptive_ece": found["adaptive_ece"],
    }


def calibrate_task_answers(
    tasks: Sequence[Task],
    model: Any,
    processor: Any,
    examples: Sequence[Iterable[Any]],
    risk: float = 0.1,
    confidence: float = 0.95,
    batch_size: int = 32,
    progress: Callable[[str], None] = lambda line: None,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """`deed.calibrate_answers` on the examples of one task or several, each a part of the data with a promise of its own.

    Args:
        tasks: say what is right, what belongs together, and how answers are generated.
        model: with early exit, at its threshold.
        processor: as `task.load` gave it.
        examples: of each task, held out.
        risk: as for `deed.calibrate_answers`.
        confidence: as for `deed.calibrate_answers`.
        batch_size: rows generated at once.
        progress: told the results, a line at a time.
        tick: called with the number of examples after each batch.

    Returns:
        The report of `deed.calibrate_answers`.

    Raises:
        CalibrationError: too few examples.
        ValueError: bounds out of range, or tasks that measure confidence over different tokens.
    """
    check_bounds(risk, confidence)
    answered: list[Answered] = []
    groups: list[tuple[str, str]] = []
    parts: list[str] = []
    over: set[str] = set()
    options: dict[str, Any] = {}
    with evaluating(model):
        for task, found in zip(tasks, examples, strict=True):
            rows = []
            for example in found:
                groups.append((task.name, task.source(example)))
                rows.append(task.row(processor, example))
            parts += [task.name] * len(rows)
            options = task.generation_options(model, processor)
            over.add(options.get("confidence_over") or model.deed_config.confidence_over)
            right = partial(
                _is_right, task, processor, task.calibration_score(processor, [r["example"] for r in rows])
            )
            answered.append(
                answer_to_calibrate(model, rows, partial(collate, model), right, batch_size, tick, **options)
            )
    if len(over) > 1:
        raise ValueError("these tasks measure confidence over different tokens; calibrate one model for each kind")
    everything = Answered(
        torch.cat([a.features for a in answered]),
        torch.cat([a.states for a in answered]),
        [right for a in answered for right in a.right],
    )
    return set_answer_calibration(model, everything, groups, parts, risk, confidence, progress, **options)


def _is_right(task: Task, processor: Any, judge: Callable[..., float], tokens: list[int], row: Any) -> bool:
    example = row["example"]
    return task.acceptable(task.answer(processor, tokens, example), example, judge(tokens, row) * task.best)
