"""`deed tune`, and `deed train --from`: a saved model goes on with any task's training examples.

`deed train --task refcoco --data DIR --from OFA` trains all of it. `deed tune` freezes the backbone and trains the exits'
adaptation modules alone, by self-distillation from the last layer: full-depth output stays bit for bit what it was.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch.utils.data import IterableDataset

from deed.config import DeedConfig
from deed.constants import NEVER_EXIT
from deed.errors import DataError
from deed.modeling.model import DeedMixin, get_deed_model
from deed.tasks.task import Task, tasks_of

from .recipe import Natural, Rate, Recipe, checked, go_on_from
from .run import Parts, run_recipe, streamed
from .task_data import ExampleStream, held_out_scores, task_stream

EARLY = 0.9  # threshold at which early exits are tried, before there is a calibrated one


@dataclass(kw_only=True)
class FineTuneRecipe(Recipe):
    """A saved model that goes on with a task's examples.

    Args:
        task: name of a task, or of several, their examples in turn; none: those that the model is for.
        data: the data set's folder or file, where it is on disk.
        start: folder of a saved model, plain or with early exit.
        loss: deed (L_avg + L_N), mean (L_avg) or last (L_N); distill if frozen, and only then.
        learning_rate: peak of a linear warm-up and decay; OFA's original has five times that for 128 examples and more.
        skip_missing: leave out examples whose picture is missing, and say how many.
        frozen: keep the model's own weights, train the exits alone by self-distillation from the last layer.
        eval_count: held-out examples of each task scored at the end.
    """

    task: str | list[str] = field(default_factory=list, metadata={"help": argparse.SUPPRESS})
    data: str | None = field(default=None, metadata={"help": argparse.SUPPRESS})
    start: str = field(metadata={"aliases": "--from"})
    start_needs: ClassVar[dict[str, str]] = {
        "start": "goes on from a saved model (`deed convert ofa` makes one): give --from"
    }
    learning_rate: Rate = 5e-5
    warmup_steps: Natural = 600
    loss: Literal["deed", "mean", "last", "distill"] = "deed"  # type: ignore[assignment]
    skip_missing: bool = False
    frozen: bool = field(default=False, metadata={"help": argparse.SUPPRESS})
    eval_count: Natural = 200


def start_model(recipe: FineTuneRecipe, task: Task) -> tuple[Any, Any]:
    """The model a run starts from, and its processor.

    Args:
        recipe: see `FineTuneRecipe`.
        task: knows how to load it.

    Raises:
        DeedLoadError: not the folder of a saved model, or a damaged one.
        DeedConfigError: no exit could be trained.
    """
    folder = Path(recipe.start)
    if not recipe.frozen:
        return go_on_from(folder, task, recipe)
    model, processor = task.load(folder, plain=True)
    config = DeedConfig(adapter=recipe.adapter, loss="distill", threshold=NEVER_EXIT)
    if isinstance(model, DeedMixin):  # new exits on the same weights; confidence is measured as before
        config.confidence, config.confidence_over = model.deed_config.confidence, model.deed_config.confidence_over
        model = model.deed_base.from_pretrained(folder)  # type: ignore[attr-defined]
    model = get_deed_model(model, config)
    model.freeze_backbone()
    return model, processor


def fine_tune(
    output: Path, recipe: FineTuneRecipe, limit: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Train a saved model, or its exits alone; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `FineTuneRecipe`.
        limit: use only so many training examples.
        minutes: stop after so many, with a checkpoint.

    Returns:
        What `run_recipe` does; of several tasks the validation is by task.

    Raises:
        DataError: a task that there is not, or not for this model; missing or broken data.
        ValueError: as `run_recipe`.
    """
    recipe = checked(FineTuneRecipe, asdict(recipe))
    if recipe.frozen != (recipe.loss == "distill"):
        raise ValueError("loss distill is for exits on a frozen backbone (deed tune), and the only loss there")
    tasks = tasks_of(Path(recipe.start), [recipe.task] if isinstance(recipe.task, str) else recipe.task)
    recipe = replace(recipe, task=[task.name for task in tasks] if len(tasks) > 1 else tasks[0].name)
    data = Path(recipe.data) if recipe.data else None
    for task in tasks:
        task.skip_missing = recipe.skip_missing
    for task in tasks:  # missing data is told before models are loaded
        if next(iter(task.examples("train", 1, data)), None) is None:
            raise DataError(f"--task {task.name} has no training examples")

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        def validate() -> dict[str, Any]:
            found = {task.name: scores_of(task, model, processor, recipe.eval_count, data) for task in tasks}
            return found if len(tasks) > 1 else found[tasks[0].name]

        streams = [task_stream(task, processor, data, recipe.seed, limit) for task in tasks]
        join = functools.partial(collate, tasks, processor, recipe.conventional)
        return Parts(TasksInTurn(streams, recipe.batch_size), join, validate if recipe.eval_count else None)

    start = functools.partial(start_model, task=tasks[0])
    return run_recipe(output, recipe, start, plan, minutes, **streamed(unused=not recipe.frozen))


def scores_of(task: Task, model: Any, processor: Any, count: int, data: Path | None) -> dict[str, Any]:
    """Scores on the first validation examples, at full depth and with early exits.

    Args:
        task: to be scored.
        model: in evaluation mode.
        processor: the model's.
        count: examples.
        data: the data set's folder or file.
    """
    if data is not None and data.is_file() and getattr(task, "reader", None) is not None:
        return {"not_scored": f"{data} is what was trained on; give a folder with a file per split"}
    examples = functools.partial(task.examples, task.validation_split, count, data)
    return held_out_scores(task, model, processor, examples, (NEVER_EXIT, EARLY), count)


class TasksInTurn(IterableDataset):
    """Rows of several streams in turn, so many that a batch is of one task; each row says by `task` of which.

    Args:
        streams: one for each task.
        batch_size: rows per process.
    """

    def __init__(self, streams: list[ExampleStream], batch_size: int) -> None:
        self.streams = streams
        self.rows = batch_size * int(os.environ.get("WORLD_SIZE", "1"))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i, stream in itertools.cycle(enumerate([iter(stream) for stream in self.streams])):
            for row in itertools.islice(stream, self.rows):
                yield {**row, "task": i}


def collate(tasks: list[Task], processor: Any, conventional: bool, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of `TasksInTurn` to a padded batch, as their task does it; a conventional training is not told which answers there
    are.

    Args:
        tasks: those of the streams.
        processor: the model's.
        conventional: the model is plain.
        rows: all of one task.
    """
    task = tasks[rows[0]["task"]]
    batch = task.collate(processor, [{k: v for k, v in row.items() if k != "task"} for row in rows])
    return {k: v for k, v in batch.items() if not (conventional and k == "allowed_tokens")}
