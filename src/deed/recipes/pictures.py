"""`deed train --task refcoco --data DIR --from OFA`: a saved OFA goes on with a data set on disk.

Examples stream from the data set's own files. Where there are but a few answers (SNLI-VE), the loss is among them only, as
in the original; what is scored at the end is held to them, too.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from deed.config import DeedConfig
from deed.constants import IGNORE_INDEX, NEVER_EXIT
from deed.data.base import Example
from deed.data.registry import READERS, check_task
from deed.errors import DataError
from deed.modeling.model import get_deed_model
from deed.models.ofa import allowed_tokens
from deed.models.shared import pad_lists
from deed.tasks import pictures as ofa_run
from deed.tasks.answering import evaluate_task
from deed.tasks.image_task import opened

from .documents import Stream, examples_of, fine_tune
from .starting import forget_measured


@dataclass
class PictureRecipe:
    """What a training run is, saved beside its result.

    Args:
        task: a name of `tasks.registry.READERS` that an OFA can do.
        start: folder of a saved OFA, plain or with early exit; a plain one gets exits, unless `conventional`.
        batch_size, learning_rate: the original's at 128 and more per step; these are for one device.
        conventional: train the plain model (last layer's loss only, over the whole vocabulary), for comparison.
        eval_count: examples of the validation split scored at the end.
    """

    task: str
    start: str
    data: str | None = None
    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 5e-5
    warmup_steps: int = 600
    weight_decay: float = 0.01
    adapter: str = "residual_linear"
    loss: str = "deed"
    conventional: bool = False
    bf16: bool = True
    seed: int = 0
    save_every: int = 500
    log_every: int = 50
    eval_count: int = 200


class PictureStream(Stream):
    """Encoded training examples without end: model inputs and `labels`."""

    def encode(self, example: Example, rng: random.Random) -> dict[str, Any] | None:
        asks = READERS[self.recipe.task].asks
        if not example.answers and asks != "refer":
            return None
        # Of answers with confidences, which come surest first, the original trains on the surest.
        sure = "confidences" in example.extra
        answer = rng.choice(example.answers[: 1 if sure else None]) if example.answers else ""
        example = opened(example)
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
    model, processor = ofa_run.PictureTask(recipe.task).load(folder, plain=True)
    if has_exits:
        model.deed_config.loss = recipe.loss
        forget_measured(model)
    elif not recipe.conventional:
        get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss=recipe.loss, threshold=NEVER_EXIT))
    return model.train(), processor


def train_pictures(output: Path, recipe: PictureRecipe, limit: int | None = None) -> dict[str, Any]:
    """Train; continues from the last complete checkpoint in `output` when there is one. Also under `torchrun`.

    Args:
        output: run folder; the model is written to `output/model`.
        limit: use only so many training examples (for tests).

    Returns:
        `{"steps", "train_loss", "validation": {…}}`.

    Raises:
        DataError: unknown task, missing or broken data.
        ValueError: another recipe in `output`, or a model to go on from that does not fit.
    """
    check_task(recipe.task, "ofa")
    next(examples_of(recipe, "train"))  # missing data is told before models are loaded
    set_seed(recipe.seed)
    model, processor = start_pictures(recipe)
    stream = PictureStream(recipe, processor, limit)
    # Not every batch has image codes, and all have pictures.
    return fine_tune(output, recipe, model, stream, collate(processor, recipe), validate, unused=True)


def validate(model: Any, processor: Any, recipe: PictureRecipe) -> dict[str, Any]:
    """The data set's metric on the first `eval_count` validation examples, at full depth; `{"not_scored": why}` where there
    are none."""
    task, data = ofa_run.PictureTask(recipe.task), Path(recipe.data) if recipe.data else None
    if data is not None and data.is_file():
        return {"not_scored": f"{data} is what was trained on; give a folder with a file per split"}
    try:
        examples = task.examples("val", recipe.eval_count, data)
        used, results = evaluate_task(task, model.eval(), processor, examples)
    except DataError as error:  # the model is trained and saved all the same
        return {"not_scored": str(error)}
    if not used:
        return {"not_scored": f"{recipe.task} has no examples with answers in its val split"}
    return {k: v for k, v in results[0].items() if k not in ("threshold", "mean_depth")}
