"""`deed train` on CMUdict: a small T5 from scratch that spells out pronunciations."""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import DataCollatorForSeq2Seq

from deed.data.readers.cmudict import load_split
from deed.models import small_g2p
from deed.tasks import g2p
from deed.tasks.loading import load_saved
from deed.training.callbacks import DropoutWindow
from deed.training.trainer import DeedTrainer

from .recipe import Count, Natural, Rate, Recipe, Share, Width, forget_measured, new_exits
from .run import Parts, run_recipe
from .task_data import held_out_scores


@dataclass(kw_only=True)
class G2pRecipe(Recipe):
    """A training run on CMUdict.

    Args:
        data: a dictionary file; none: the packaged one.
        dropout: rate in steps `dropout_start` to `dropout_stop`, none outside (see `DropoutWindow`).
        dropout_start: first step with dropout.
        dropout_stop: first step without again.
        n_layers: encoder layers, and as many decoder layers.
        d_model: width, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        start: folder of a saved deed model to go on from, with a fresh optimizer and schedule (a further stage).
        eval_every: steps between scorings on the validation words.
    """

    task: Literal["g2p"] = field(default="g2p", metadata={"help": argparse.SUPPRESS})
    data: str | None = field(default=None, metadata={"help": argparse.SUPPRESS})
    steps: Count = 9500
    batch_size: Count = 128
    learning_rate: Rate = 1.5e-3
    warmup_steps: Natural = 300
    weight_decay: Rate = 0.05
    dropout: Share = 0.1
    dropout_start: Natural = 4500
    dropout_stop: Natural = 6250
    n_layers: Count = field(default=8, metadata={"aliases": "--layers"})
    d_model: Width = 128
    d_ff: Count = 512
    start: str | None = field(default=None, metadata={"aliases": "--from"})
    save_every: Count = 250
    log_every: Count = 100
    eval_every: Count = 1500


def train_g2p(
    output: Path,
    recipe: G2pRecipe,
    data: Path | None = None,
    limit: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train the CMUdict model; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `G2pRecipe`.
        data: a dictionary file; None: the recipe's.
        limit: use only so many training words (for tests).
        minutes: stop after so many, with a checkpoint.
    """
    if data is None and recipe.data:
        data = Path(recipe.data)
    rows, held_out = load_split("train", data)[:limit], load_split("validation", data)[:limit]
    task = g2p.G2pTask()
    answers = [listed for _, listed in held_out]

    def plan(model: Any, tokenizer: Any, checkpoint: str | None) -> Parts:
        train_set = g2p.encode_pairs(rows, tokenizer)
        eval_set = g2p.encode_pairs([(word, listed[:1]) for word, listed in held_out], tokenizer)

        def measure(prediction: Any) -> dict[str, float]:
            return g2p.score_ids(prediction.predictions, answers, tokenizer)

        def validate() -> dict[str, Any]:
            examples = functools.partial(task.examples, "validation", limit, data)
            return held_out_scores(task, model, tokenizer, examples, count=len(held_out))

        trainer = functools.partial(
            DeedTrainer,
            eval_dataset=eval_set,
            compute_metrics=measure if eval_set else None,
            lengths=[len(x["input_ids"]) * 64 + len(x["labels"]) for x in train_set],
        )
        window = DropoutWindow(recipe.dropout, recipe.dropout_start, recipe.dropout_stop)
        collator = DataCollatorForSeq2Seq(tokenizer, model=model)
        return Parts(train_set, collator, validate if held_out else None, trainer, [window])

    return run_recipe(
        output,
        recipe,
        start_g2p,
        plan,
        minutes,
        per_device_eval_batch_size=128,
        adam_beta2=0.98,
        eval_strategy="steps" if held_out else "no",
        eval_steps=recipe.eval_every,
        predict_with_generate=True,
    )


def start_g2p(recipe: G2pRecipe) -> tuple[Any, Any]:
    """The model a run starts from, and its tokenizer.

    Raises:
        DeedLoadError: `recipe.start` is not the folder of a saved deed model.
        ValueError: the training is a conventional one.
    """
    if recipe.start is not None:
        if recipe.conventional:
            raise ValueError(f"--from {recipe.start} goes on with early exit; leave --conventional out")
        model, tokenizer = load_saved(Path(recipe.start))
        forget_measured(model)
        return model, tokenizer
    tokenizer = small_g2p.build_tokenizer()
    model = small_g2p.build_model(tokenizer, recipe.n_layers, recipe.d_model, recipe.d_ff, recipe.dropout)
    return new_exits(model, recipe), tokenizer
