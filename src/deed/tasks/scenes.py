"""A small OFA at work on scenes and easy-vqa: held-out examples and scores of all their tasks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deed.constants import NEVER_EXIT
from deed.data.base import Example
from deed.data.readers import easyvqa
from deed.data.synthetic import scenes
from deed.errors import DataError
from deed.metrics.cider import DocumentFrequencies
from deed.models.ofa import OFAProcessor

from . import picture_scores as ofa_scores
from . import pictures as ofa_run
from .picture_scores import box_of, text_of
from .pictures import answer, inputs_of, load

__all__ = [
    "ASKS",
    "BEST",
    "METRICS",
    "TASKS",
    "answer",
    "box_of",
    "encode",
    "evaluate",
    "examples_of",
    "inputs_of",
    "load",
    "score",
    "score_each",
    "stream_of",
    "text_of",
]

TASKS = (*scenes.TASKS, "easyvqa")
# What OFA is asked for each task, what it is scored by, and the best score.
ASKS = {"refer": "refer", "caption": "caption", "vqa": "vqa", "easyvqa": "vqa"}
METRICS = {"refer": "acc_at_0.5", "caption": "cider_d", "vqa": "accuracy", "easyvqa": "accuracy"}
BEST = {task: ofa_scores.BEST[metric] for task, metric in METRICS.items()}


def examples_of(task: str, split: str, count: int, seed: int = 0) -> list[Example]:
    """Held-out examples of a task, as many as asked for or as there are.

    Args:
        task: one of `TASKS`.
        split: `validation`, `calibration`, `test`, or for scenes `unseen`.

    Raises:
        DataError: an unknown task or split.
    """
    return list(stream_of(task, split, count, seed))


def stream_of(task: str, split: str, count: int | None, seed: int = 0) -> Iterator[Example]:
    """As `examples_of`, one at a time, each scene drawn when it is reached.

    Args:
        count: None: all of easy-vqa's; scenes are endless.
    """
    if task not in TASKS:
        raise DataError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if task == "easyvqa":
        return itertools.islice(easyvqa.read(None, split), count)
    if count is None:
        raise DataError(f"scenes are endless; say how many of {task}")
    return (example.as_example() for example in scenes.examples(task, split, count, seed))


def encode(processor: OFAProcessor, task: str, example: Example) -> dict[str, Any]:
    """One example's model inputs without batch axis: `input_ids` and `patch_images`."""
    return ofa_run.encode(processor, ASKS[task], example)


def score_each(
    processor: OFAProcessor,
    task: str,
    examples: Sequence[Example],
    answers: Sequence[Sequence[int]],
    corpus: DocumentFrequencies | None = None,
) -> list[float]:
    """Each answer's score by the task's metric; captions 0 to 10, the others 0 or 1.

    Args:
        corpus: what captions' words are weighed by; None: these examples' references.
    """
    return ofa_scores.score_each(processor, METRICS[task], examples, answers, corpus)


def score(
    processor: OFAProcessor, task: str, examples: Sequence[Example], answers: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """The task's metric over all examples, and by kind where there are several, as `ofa_scores.score`."""
    return ofa_scores.score(processor, METRICS[task], examples, answers)


def evaluate(
    model: Any,
    processor: OFAProcessor,
    split: str = "validation",
    count: int = 200,
    threshold: Any = NEVER_EXIT,
    tasks: Sequence[str] = TASKS,
    tick: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores and `mean_depth` of every task on held-out examples.

    Args:
        split: as for `examples_of`; for `unseen`, leave easyvqa out of `tasks`.
        count: examples of each task.
        threshold: 2.0: full depth.

    Returns:
        Per task `{metric, "questions", "by_kind", "mean_depth"}`; the depth of a plain model is None.
    """
    result = {}
    for task in tasks:
        stream = stream_of(task, split, count)
        way = {"exit_threshold": threshold}
        examples, [(answers, depth)] = ofa_run.answer_all(model, processor, ASKS[task], stream, [way], tick=tick)
        mean = None if math.isnan(depth) else depth
        result[task] = {**score(processor, task, examples, answers), "mean_depth": mean}
    return result
