"""A saved model at work on a task: answering held-out examples in pieces that fit in memory, scoring, calibrating."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from deed.calibration.learn_then_test import GRID, calibrate
from deed.constants import IGNORE_INDEX, NEVER_EXIT
from deed.modeling.answering import Answers, generate_rows
from deed.modeling.model import DeedMixin
from deed.models.shared import pad_lists

from .confidence import Answer, abstain_threshold, abstaining, asks_for_confidence, with_confidence
from .protocol import Task

CHUNK = 256  # examples encoded at once; a multiple of the usual batch sizes
FULL_DEPTH = {"exit_threshold": NEVER_EXIT}


def pad_rows(rows: Sequence[Mapping[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Encoded rows to a batch, padded at the right: `input_ids` by `pad` and with an `attention_mask`, `labels` by -100,
    what else has a length by 0; tensors without one, and those of one shape, are stacked."""
    batch: dict[str, torch.Tensor] = {}
    for key in rows[0]:
        if key == "labels":
            batch[key] = pad_lists([list(row[key]) for row in rows], IGNORE_INDEX)
            continue
        values = [torch.as_tensor(row[key]) for row in rows]
        if len({value.shape for value in values}) == 1:
            batch[key] = torch.stack(values)
        else:
            value = pad if key == "input_ids" else 0
            batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=value)
    if "input_ids" in batch and "attention_mask" not in batch:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
    return batch


def answer_rows(
    task: Task,
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    **options: Any,
) -> Answers:
    """Tokens for encoded examples, and how deep they went.

    Args:
        task: whose options of `generate()` hold where `options` say nothing else.
        model: with early exit or plain; a plain one is not told of thresholds.
        processor: as `task.load` gave it.
        rows: of `task.encode`.
        batch_size: rows generated at once.
        tick: called with the number of rows after each batch.
        options: of `generate()`.
    """
    options = {**task.generation_options(model, processor), **options}
    return generate_rows(model, rows, lambda part: task.collate(processor, part), options, batch_size, tick)


class Given(NamedTuple):
    """Answers to a data set, made in one way.

    Attributes:
        answers: one for each example.
        mean_depth: mean exit depth; nan from a plain model.
    """

    answers: list[Answer]
    mean_depth: float


def give_answers(
    task: Task,
    model: Any,
    processor: Any,
    examples: Iterable[Any],
    ways: Sequence[dict[str, Any]] = ({},),
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    abstain_below: float | None = None,
    **options: Any,
) -> tuple[list[Any], list[Given]]:
    """Answers to a data set, however large its pictures, in several ways at once, each with its confidence where answers are
    calibrated for that way.

    Args:
        task, model, processor, batch_size, tick, options: as for `answer_rows`.
        examples: opened and encoded some at a time.
        ways: how a model leaves early, as options of its `generate()`; a plain model does the same in each. By default its
            own threshold.
        abstain_below: an answer is sure from this confidence on; None: what `deed.calibrate_answers` chose.

    Returns:
        The examples, closed; and per way the answers.

    Raises:
        ValueError: `abstain_below` is no number of at least 0, or answers are not calibrated at all.
    """
    threshold = abstain_threshold(model, abstain_below)
    asked = [{**options, **way} for way in ways]
    asked = [asks_for_confidence(model, {**task.generation_options(model, processor), **way}) for way in asked]
    kept: list[Any] = []
    answers: list[list[Answer]] = [[] for _ in ways]
    depths, counts = [0] * len(ways), [0] * len(ways)
    left = iter(examples)
    while True:
        rows, closed = [], []
        for example in map(task.opened, itertools.islice(left, CHUNK)):  # one picture in memory at a time
            rows.append(task.encode(processor, example))
            closed.append(task.closed(example))
        if not rows:
            break
        kept += closed
        for i, way in enumerate(asked):
            found = answer_rows(task, model, processor, rows, batch_size, tick, **way)
            values = [task.answer(processor, ids, x) for ids, x in zip(found.tokens, closed, strict=True)]
            answers[i] += with_confidence(values, found.tokens, found.confidences, threshold)
            depths[i] += found.depth_sum
            counts[i] += found.depth_count
    means = [depth / count if count else math.nan for depth, count in zip(depths, counts, strict=True)]
    return kept, [Given(*found) for found in zip(answers, means, strict=True)]


def answer_examples(
    task: Task,
    model: Any,
    processor: Any,
    examples: Iterable[Any],
    ways: Sequence[dict[str, Any]] = (FULL_DEPTH,),
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    **options: Any,
) -> tuple[list[Any], list[tuple[list[Any], float]]]:
    """`give_answers` without confidence: the answers themselves.

    Args:
        task, model, processor, examples, batch_size, tick, options: as for `give_answers`.
        ways: likewise; by default full depth.

    Returns:
        The examples, closed; and per way the answers and the mean exit depth (nan from a plain model).
    """
    kept, found = give_answers(task, model, processor, examples, ways, batch_size, tick, **options)
    return kept, [([answer.value for answer in given.answers], given.mean_depth) for given in found]


def score_answers(task: Task, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, Any]:
    """The task's metric over all examples, further scores, and the metric by kind where there are several kinds.

    Args:
        task: whose metric it is.
        answers: of `task.answer`.
        examples: closed.

    Returns:
        `{metric, "questions", "by_kind": {kind: {metric, "questions"}}, …}`.
    """
    each = task.score(answers, examples)
    kinds: dict[str, list[float]] = {}
    for example, value in zip(examples, each, strict=True):
        kinds.setdefault(task.by_kind(example) or "all questions", []).append(value)

    def mean(values: Sequence[float]) -> dict[str, Any]:
        return {task.metric: sum(values) / len(values), "questions": len(values)}

    result = {**mean(each), **task.other_scores(answers, examples)}
    if len(kinds) > 1:
        result["by_kind"] = {kind: mean(values) for kind, values in sorted(kinds.items())}
    return result


def evaluate_task(
    task: Task,
    model: Any,
    processor: Any,
    examples: Iterable[Any],
    thresholds: Sequence[Any] = (NEVER_EXIT,),
    tick: Callable[[int], None] | None = None,
    abstain_below: float | None = None,
    **options: Any,
) -> tuple[int, list[dict[str, Any]]]:
    """Scores and mean depth at each threshold, and what confidence comes to at the one that answers are calibrated for.

    Args:
        task, model, processor, tick, options: as for `answer_rows`. A plain model is scored once, at full depth.
        examples: with right answers.
        thresholds: exit thresholds.
        abstain_below: as for `give_answers`.

    Returns:
        How many examples, and per threshold `{"threshold", "mean_depth", …}` with the scores of `score_answers`; the
        depth of a plain model is None. Where answers have a confidence, `answers` is what `abstaining` returns. No results
        where there are no examples.
    """
    used = list(thresholds) if isinstance(model, DeedMixin) else [NEVER_EXIT]
    ways = [{"exit_threshold": value} for value in used]
    kept, found = give_answers(
        task, model, processor, examples, ways, tick=tick, abstain_below=abstain_below, **options
    )
    if not kept:
        return 0, []
    sure_from = abstain_threshold(model, abstain_below)
    results = []
    for value, (answers, depth) in zip(used, found, strict=True):
        row = {"threshold": value, "mean_depth": None if math.isnan(depth) else depth}
        row |= score_answers(task, [answer.value for answer in answers], kept)
        told = None if sure_from is None else abstaining(task, answers, kept, sure_from)
        results.append(row if told is None else {**row, "answers": told})
    return len(kept), results


def calibrate_task(
    task: Task,
    model: Any,
    processor: Any,
    examples: Iterable[Any],
    risk: float = 0.01,
    confidence: float = 0.95,
    thresholds: Sequence[float] = GRID,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """`deed.calibrate` on a task's examples, each scored by its metric divided by its best; sets the model's threshold.

    Args:
        task: whose metric and options of `generate()` are used.
        model: with early exit.
        processor: as `task.load` gave it.
        examples: held out.
        risk, confidence, thresholds, progress: as for `deed.calibrate`.

    Returns:
        The report of `deed.calibrate`, with the `metric` and what it was `divided_by`.
    """
    rows = [task.row(processor, example) for example in examples]
    judge = task.calibration_score(processor, [row["example"] for row in rows])
    report = calibrate(
        model,
        rows,  # type: ignore[arg-type]
        risk,
        confidence,
        score=judge,  # type: ignore[arg-type]
        thresholds=thresholds,
        batch_size=64,
        progress=progress,
        **task.generation_options(model, processor),
    )
    report |= {"metric": task.metric, "divided_by": task.best}
    return report
