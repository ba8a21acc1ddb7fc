"""`deed train --task refcoco --data DIR --from OFA`: a saved OFA goes on with a data set on disk.

Examples stream from the data set's own files. Where there are but a few answers (SNLI-VE), the loss is among them only, as
in the original; what is scored at the end is held to them, too.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deed.constants import IGNORE_INDEX
from deed.data.base import Example
from deed.data.registry import READERS, check_task
from deed.errors import DataError
from deed.models.ofa import allowed_tokens
from deed.models.shared import pad_lists
from deed.tasks import picture_scores as ofa_scores
from deed.tasks import pictures as ofa_run
from deed.tasks.held_out import examples_of as held_out

from .documents import Stream, examples_of
from .recipe import Natural, Rate, Recipe, forget_measured, new_exits
from .run import Parts, run_recipe, streamed


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


class PictureStream(Stream):
    """Encoded training examples without end: model inputs and `labels`."""

    def encode(self, example: Example, rng: random.Random) -> dict[str, Any] | None:
        """Model inputs and `labels` of an example; None where it has no answer."""
        asks = READERS[self.recipe.task].asks
        if not example.answers and asks != "refer":
            return None
        # Of answers with confidences, which come surest first, the original trains on the surest.
        sure = "confidences" in example.extra
        answer = rng.choice(example.answers[: 1 if sure else None]) if example.answers else ""
        example = ofa_run.opened(example)
        row = ofa_run.encode(self.processor, asks, example)
        return {**row, "labels": ofa_run.target(self.processor, asks, example, answer)}


def collate(processor: Any, recipe: PictureRecipe) -> Any:
    """Data collator: encoded rows to a padded batch."""
    closed = ofa_run.closed_list(processor, READERS[recipe.task].asks)

    def join(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = pad_lists([row["labels"] for row in rows], IGNORE_INDEX)
        batch = {**ofa_run.inputs_of(rows, processor.tokenizer.pad_token_id), "labels": labels}
        if closed is not None and not recipe.conventional:
            batch["allowed_tokens"] = allowed_tokens(labels, closed.trie)
        return batch

    return join


def start_pictures(recipe: PictureRecipe) -> tuple[Any, Any]:
    """The model a run starts from, and its processor.

    Raises:
        ValueError: not the folder of a saved OFA, or one with early exit for a conventional training.
    """
    folder = Path(recipe.start)
    try:
        has_exits = "deed_config" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"--from needs the folder of a saved OFA; got {folder}") from None
    if has_exits and recipe.conventional:
        raise ValueError(f"--from {folder} has early exit; --conventional goes on from a plain OFA")
    model, processor = ofa_run.load(folder, plain=True)
    if has_exits:
        model.deed_config.loss = recipe.loss
        forget_measured(model)
    else:
        model = new_exits(model, recipe)
    return model.train(), processor


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

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        scores = (lambda: validate(model, processor, recipe)) if recipe.eval_count else None
        return Parts(PictureStream(recipe, processor, limit), collate(processor, recipe), scores)

    # Not every batch has image codes, and all have pictures.
    return run_recipe(output, recipe, start_pictures, plan, minutes, **streamed(unused=True))


def validate(model: Any, processor: Any, recipe: PictureRecipe) -> dict[str, Any]:
    """Scores on the first `eval_count` validation examples, at full depth; `{"not_scored": why}` where there are none.

    Args:
        model: in evaluation mode.
        processor: the model's.
        recipe: `task`, `data`, `eval_count`.
    """
    asks, data = READERS[recipe.task].asks, Path(recipe.data) if recipe.data else None
    if data is not None and data.is_file():
        return {"not_scored": f"{data} is what was trained on; give a folder with a file per split"}
    try:
        metric, examples = held_out(recipe.task, data, "val", "val", recipe.eval_count)
        kept, [(answers, _)] = ofa_run.answer_all(model, processor, asks, examples)
    except DataError as error:  # the model is trained and saved all the same
        return {"not_scored": str(error)}
    if not kept:
        return {"not_scored": f"{recipe.task} has no examples with answers in its val split"}
    return ofa_scores.score(processor, ofa_scores.name_of(metric), kept, answers)
