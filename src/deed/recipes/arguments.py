"""Trainer's arguments, as far as all recipes have them in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments


def training_arguments(output: Path, recipe: Any, **own: Any) -> Seq2SeqTrainingArguments:
    """Those that `recipe` names, a linear schedule, two checkpoints kept, no reports; `own` adds to them or replaces them."""
    common: dict[str, Any] = {
        "max_steps": recipe.steps,
        "learning_rate": recipe.learning_rate,
        "warmup_steps": recipe.warmup_steps,
        "lr_scheduler_type": "linear",
        "weight_decay": recipe.weight_decay,
        "bf16": recipe.bf16,
        "seed": recipe.seed,
        "logging_steps": recipe.log_every,
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
    }
    return Seq2SeqTrainingArguments(output_dir=str(output), **{**common, **own})


def whole_batches(recipe: Any) -> dict[str, Any]:
    """For a data set whose items are batches, made by workers."""
    return {
        "per_device_train_batch_size": 1,
        "dataloader_num_workers": recipe.workers,
        "dataloader_prefetch_factor": 2 if recipe.workers else None,
        "remove_unused_columns": False,
    }
