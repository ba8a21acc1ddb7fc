"""`deed train --task refcoco --data DIR --from OFA`: a saved OFA goes on with a data set on disk.

Examples stream from the data set's own files. Where there are but a few answers (SNLI-VE), the loss is among them only, as
in the original; what is scored at the end is held to them, too.
"""

from __future__ import annotations

import argparse
import functools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deed.data.base import Example
from deed.data.registry import check_task
from deed.errors import DeedLoadError
from deed.tasks.pictures import PictureTask
from deed.utils.saved_model import read_saved_model

from .documents import examples_of
from .recipe import Natural, Rate, Recipe, go_on_from
from .run import Parts, run_recipe, streamed
from .task_data import ExampleStream, encoder, held_out_scores


@dataclass(kw_only=True)
class PictureRecipe(Recipe):
    """A training run of an OFA on a data set on disk.

    Args:
        task: a name of `deed.data.registry.READERS` that an OFA can do.
        data: the data set's folder.
        start: folder of a saved OFA, plain or with early exit; a plain one gets exits, unless `conventional`.
        batch_size: examples per step and process; the original's is 128 and more.
        learning_rate: peak of a linear warm-up and decay, for so few examples per step.
        eval_count: examples of the validation split scored at the end.
    """

    task: str = field(metadata={"help": argparse.SUPPRESS})
    data: str | None = field(default=None, metadata={"help": argparse.SUPPRESS})
    start: str = field(metadata={"aliases": "--from"})
    learning_rate: Rate = 5e-5
    warmup_steps: Natural = 600
    eval_count: Natural = 200


def picture_stream(recipe: PictureRecipe, processor: Any, limit: int | None = None) -> ExampleStream:
    """Training examples: those with answers, or boxes to be found.

    Args:
        recipe: `task`, `data`, `seed`.
        processor: encodes.
        limit: use only so many examples.
    """
    task = PictureTask(recipe.task)
    encode = encoder(task, processor)

    def if_answered(example: Example, rng: random.Random) -> dict[str, Any] | None:
        return encode(example, rng) if example.answers or task.asks == "refer" else None

    return ExampleStream(lambda: examples_of(recipe, "train"), if_answered, recipe.seed, limit)


def collate(recipe: PictureRecipe, processor: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Encoded rows to a padded batch; a conventional training is not told which answers there are.

    Args:
        recipe: `task`, `conventional`.
        processor: pads.
        rows: of `picture_stream`.
    """
    batch = PictureTask(recipe.task).collate(processor, rows)
    if recipe.conventional:
        batch.pop("allowed_tokens", None)
    return batch


def start_pictures(recipe: PictureRecipe) -> tuple[Any, Any]:
    """The model a run starts from, and its processor.

    Raises:
        ValueError: not the folder of a saved OFA, or one with early exit for a conventional training.
    """
    folder = Path(recipe.start)
    try:
        saved = read_saved_model(folder)
    except DeedLoadError:
        raise ValueError(f"--from needs the folder of a saved OFA; got {folder}") from None
    if saved.has_exits and recipe.conventional:
        raise ValueError(f"--from {folder} has early exit; --conventional goes on from a plain OFA")
    return go_on_from(folder, PictureTask(recipe.task), recipe)


def train_pictures(
    output: Path, recipe: PictureRecipe, limit: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Train an OFA on a data set; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `PictureRecipe`.
        limit: use only so many training examples (for tests).
        minutes: stop after so many, with a checkpoint.

    Raises:
        DataError: unknown task, missing or broken data.
        ValueError: as `run_recipe`.
    """
    check_task(recipe.task, "ofa")
    next(examples_of(recipe, "train"))  # missing data is told before models are loaded

    task, data = PictureTask(recipe.task), Path(recipe.data) if recipe.data else None

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        def validate() -> dict[str, Any]:
            if data is not None and data.is_file():
                return {"not_scored": f"{data} is what was trained on; give a folder with a file per split"}
            examples = functools.partial(task.examples, "val", recipe.eval_count, data)
            return held_out_scores(task, model, processor, examples, count=recipe.eval_count)

        join = functools.partial(collate, recipe, processor)
        return Parts(picture_stream(recipe, processor, limit), join, validate if recipe.eval_count else None)

    # Not every batch has image codes, and all have pictures.
    return run_recipe(output, recipe, start_pictures, plan, minutes, **streamed(unused=True))
