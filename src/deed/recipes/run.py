"""One training run, whatever the recipe: what every run does stands here, once.

The folder is locked, its recipe is compared, the seed is fixed, the model is made, training goes on from the last whole
checkpoint, the model is published, and only then scored. A recipe brings its model, and `Parts`: data, collator, scores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, set_seed

from deed.errors import DataError
from deed.training.callbacks import TimeLimit
from deed.training.run_folder import (
    check_recipe,
    last_complete_checkpoint,
    locked,
    publish,
    remove_incomplete,
    write_recipe,
)
from deed.training.trainer import DeedTrainer

from .recipe import Recipe, checked

# What gloo and NCCL say where a process has lost another.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited", "NCCL error")


@dataclass
class Parts:
    """What a recipe says of its training, once its model is there.

    Attributes:
        data: training data set.
        collator: of the data set's items to a batch.
        validate: gives the scores of the published model, in evaluation mode; None: not scored.
        trainer: makes the trainer, `DeedTrainer` or a subclass; further options by `functools.partial`.
        log: rows that go before the trainer's own in the training log.
        write_more: called with the published folder, to write more into it.
    """

    data: Any
    collator: Callable[[list[Any]], dict[str, Any]]
    validate: Callable[[], dict[str, Any]] | None = None
    trainer: Callable[..., DeedTrainer] = DeedTrainer
    callbacks: list[Any] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    write_more: Callable[[Path], None] | None = None


def run_recipe(
    output: Path,
    recipe: Recipe,
    start: Callable[[Any], tuple[Any, Any]],
    plan: Callable[[Any, Any, str | None], Parts],
    minutes: float | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Train by a recipe; goes on from the last whole checkpoint in `output` when there is one. Also under `torchrun`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: checked here, field by field.
        start: `start(recipe)` gives model and processor (or tokenizer).
        plan: `plan(model, processor, checkpoint)` gives the rest; it may write into `output`.
        minutes: stop after so many, with a checkpoint.
        arguments: of `Seq2SeqTrainingArguments`, beside those that all recipes have.

    Returns:
        `{"steps", "train_loss", "validation": {…}}`.

    Raises:
        ValueError: a bad field of the recipe, another recipe in `output`, another process at work there, a model that
            cannot be loaded. Where a run has not begun, nothing is left behind.
    """
    recipe = checked(type(recipe), asdict(recipe))
    with locked(output):
        check_recipe(output, recipe)
        set_seed(recipe.seed)
        model, processor = start(recipe)
        settings = training_arguments(output, recipe, **arguments)
        with settings.main_process_first():
            if settings.process_index == 0:
                write_recipe(output, recipe)
                remove_incomplete(output)
            checkpoint = last_complete_checkpoint(output)
            processor = same_processor(output, processor)
            parts = plan(model, processor, checkpoint)
        trainer = parts.trainer(
            model=model,
            args=settings,
            train_dataset=parts.data,
            data_collator=parts.collator,
            processing_class=processor,
            callbacks=[*parts.callbacks, *([] if minutes is None else [TimeLimit(minutes)])],
        )
        try:
            step, loss = trainer.train_or_restore(checkpoint)
        except RuntimeError as error:
            if settings.world_size > 1 and any(sign in str(error) for sign in LOST):
                raise DataError(
                    f"another process of this run has ended, and with it the run; the same command goes on from the last "
                    f"checkpoint in {output}"
                ) from error
            raise
        validation: dict[str, Any] = {}
        if trainer.is_world_process_zero():
            log = [*parts.log, *trainer.state.log_history]
            folder = publish(model, processor, output, recipe, log, parts.write_more)
            if parts.validate is not None:
                say(f"step {step}: model saved in {folder}; scoring it on held-out examples")
                model.eval()
                validation = parts.validate()
    return {"steps": step, "train_loss": loss, "validation": validation}


def say(message: str) -> None:
    """A line of progress for the reader of the terminal (standard error)."""
    print(message, file=sys.stderr, flush=True)


def training_arguments(output: Path, recipe: Recipe, **own: Any) -> Seq2SeqTrainingArguments:
    """Those that the recipe names, a linear schedule, two checkpoints kept, no reports; `own` adds to or replaces them."""
    common: dict[str, Any] = {
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "warmup_steps": recipe.warmup_steps,
        "lr_scheduler_type": "linear",
        "weight_decay": recipe.weight_decay,
        "bf16": recipe.bf16 and not recipe.fp16,
        "fp16": recipe.fp16,
        "gradient_accumulation_steps": recipe.accumulation,
        "seed": recipe.seed,
        "logging_steps": recipe.log_every,
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
    }
    return Seq2SeqTrainingArguments(output_dir=str(output), **{**common, **own})


def whole_batches(workers: int) -> dict[str, Any]:
    """Training arguments for a data set whose items are batches, made by so many worker processes."""
    return {
        "per_device_train_batch_size": 1,
        "dataloader_num_workers": workers,
        "dataloader_prefetch_factor": 2 if workers else None,
        "remove_unused_columns": False,
    }


def streamed(unused: bool) -> dict[str, Any]:
    """Training arguments for a data set that streams examples.

    Args:
        unused: whether a step may leave parameters without gradients.
    """
    return {
        "remove_unused_columns": False,
        # Each process reads the stream and keeps its share: batches of different lengths cannot be dealt out by one.
        "accelerator_config": {"dispatch_batches": False},
        "ddp_find_unused_parameters": unused,
    }


def only_item(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collator for a data set whose items are batches: the batch that is the only item."""
    return items[0]


def same_processor(output: Path, processor: Any) -> Any:
    """The processor that a run began with, so that a resumed run keeps its vocabulary; at its beginning the one given, saved
    for later."""
    if (output / "processor_config.json").is_file():
        return type(processor).from_pretrained(output)
    processor.save_pretrained(output)
    return processor
