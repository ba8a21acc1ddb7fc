"""A task's examples as training data without end, and its held-out ones as scores."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from deed.constants import NEVER_EXIT
from deed.data.letters import LetterCount
from deed.errors import DataError
from deed.tasks.answering import evaluate_task
from deed.tasks.protocol import Task, tokenizer_of
from deed.utils.progress import shown

LETTERS_OF = 20_000  # answers whose letters are checked, of data sets without end
ENDLESS = 10**9  # examples of data sets that are made as they are read

Encode = Callable[[Any, random.Random], dict[str, Any] | None]


class ExampleStream(IterableDataset):
    """Encoded training examples without end: the examples again and again, in an order that a seed shuffles.

    Args:
        examples: gives the examples of one epoch; called again for the next.
        encode: `encode(example, rng)` to model inputs and `labels`; None where there is nothing to learn.
        seed: of the order, and of what `encode` draws.
        limit: use only the first so many examples.
        tokenizer: makes the labels; a warning says once, after the first epoch or `LETTERS_OF` examples, which letters of
            the answers it cannot write.
    """

    def __init__(
        self,
        examples: Callable[[], Iterable[Any]],
        encode: Encode,
        seed: int,
        limit: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.examples, self.encode, self.seed, self.limit = examples, encode, seed, limit
        self.tokenizer = tokenizer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng = random.Random(self.seed)
        letters = None if self.tokenizer is None else LetterCount(self.tokenizer)
        while True:
            used = 0
            for example in shuffled(itertools.islice(self.examples(), self.limit), rng):
                row = self.encode(example, rng)
                if row is None:
                    continue
                used += 1
                if letters is not None:
                    for text in getattr(example, "answers", ()):
                        letters.add(text)
                    if letters.total >= LETTERS_OF:
                        letters.warn()
                        letters = None
                yield row
            if letters is not None:
                letters.warn()
                letters = None
            if not used:
                raise DataError("the train split has nothing to train on: no example has an answer")


def shuffled(examples: Iterable[Any], rng: random.Random) -> Iterator[Any]:
    """The examples, each drawn from the next few: all where they are texts alone, a thousand where their pictures are files,
    few where pictures are in memory (made or read one by one)."""
    held: list[Any] = []
    for example in examples:
        image = getattr(example, "image", None)
        size = 200_000 if image is None else 1000 if isinstance(image, (str, Path)) else 64
        held.append(example)
        if len(held) > size:
            yield held.pop(rng.randrange(len(held)))
    rng.shuffle(held)
    yield from held


def encoder(task: Task, processor: Any) -> Callable[[Any, random.Random], dict[str, Any]]:
    """`ExampleStream`'s `encode` for a task: its model inputs, and the labels of one of the right answers."""

    def encode(example: Any, rng: random.Random) -> dict[str, Any]:
        example = task.opened(example)
        return {**task.encode(processor, example), "labels": task.labels(processor, example, rng)}

    return encode


def task_stream(task: Task, processor: Any, data: Path | None, seed: int, limit: int | None = None) -> ExampleStream:
    """A task's training examples.

    Args:
        task: whose they are.
        processor: encodes.
        data: the data set's folder or file.
        seed: of the order.
        limit: use only the first so many.
    """
    examples = functools.partial(task.examples, "train", ENDLESS, data)
    return ExampleStream(examples, encoder(task, processor), seed, limit, tokenizer_of(processor))


def held_out_scores(
    task: Task,
    model: Any,
    processor: Any,
    examples: Callable[[], Iterable[Any]],
    thresholds: tuple[float, ...] = (NEVER_EXIT,),
    count: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores of a trained model, with a progress bar: the task's own at the first threshold, and at further ones its metric
    and the mean exit depth.

    Args:
        task: whose metric it is.
        model: in evaluation mode; a plain one is scored at full depth only.
        processor: as `task.load` gives it.
        examples: gives held-out ones, with right answers.
        thresholds: exit thresholds, full depth first.
        count: how many examples there are, for the bar.
        options: of `generate()`.

    Returns:
        Scores by name, or `{"not_scored": why}`: the model is trained and saved all the same.
    """
    total = None if count is None else count * len(thresholds)
    with shown() as progress, progress.bar(f"scoring {task.name}", total) as bar:
        try:
            n, results = evaluate_task(task, model, processor, examples(), thresholds, bar.advance, **options)
        except ValueError as error:  # a DataError, or too few examples for the metric
            return {"not_scored": f"{task.name} cannot be scored: {error}"}
    if not n:
        return {"not_scored": f"{task.name} has no examples with answers in its {task.validation_split} split"}
    scores = {key: value for key, value in results[0].items() if key not in ("threshold", "mean_depth")}
    for result in results[1:]:
        at = f"at_threshold_{result['threshold']}"
        scores |= {f"{task.metric}_{at}": result[task.metric], f"mean_depth_{at}": result["mean_depth"]}
    return scores
