"""Training: Transformers' `Seq2SeqTrainer` on Accelerate, with what early exit adds to it.

`DeedTrainer` logs the loss of every exit and reads the adaptation modules back when it resumes (a plain
`Seq2SeqTrainer` trains a deed model just as well, but restores only the base model's weights from a checkpoint).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import (
    Seq2SeqTrainer,
    TrainerCallback,
)

from .model import DeedMixin
from .saving import PREFIX, load_exits_into


class DeedTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` that logs `exit_loss_<depth>` and restores `deed_exits` with a checkpoint."""

    def __init__(self, *args: Any, lengths: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Both take the labels away from the model, which would quietly train the last layer alone.
        if self.args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor turns deep supervision off; set it to 0")
        if self.compute_loss_func is not None:
            raise ValueError("compute_loss_func turns deep supervision off; leave it out")
        self.lengths = lengths
        self._exit_losses: torch.Tensor | None = None
        self._exit_batches = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        losses = outputs.get("exit_losses") if isinstance(outputs, dict) else None
        if losses is not None and model.training:
            # Per token: the model's losses are shares of a sum over the accumulated batches of all processes.
            parts = self.args.gradient_accumulation_steps
            if self.args.average_tokens_across_devices:
                parts *= self.accelerator.num_processes
            share = losses.detach() * parts
            self._exit_losses = share if self._exit_losses is None else self._exit_losses + share
            self._exit_batches += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._exit_losses is not None:
            model = self.accelerator.unwrap_model(self.model)
            mean = (self._exit_losses / self._exit_batches).tolist()
            for depth, value in zip(model.deed_config.exit_layers, mean, strict=True):
                logs[f"exit_loss_{depth}"] = round(value, 4)
            self._exit_losses, self._exit_batches = None, 0
        super().log(logs, start_time)

    # Trainer reads a checkpoint's tensors by their names on disk, which for some modules (ViT) are older ones than the
    # model's, and keeps fresh weights where it finds none; `from_pretrained` knows both names, and the exits' file.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._restore(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self._restore(self.state.best_model_checkpoint)

    def _restore(self, folder: str | None, model: Any = None) -> None:
        if folder is None:
            return
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        early_exit = isinstance(target, DeedMixin)
        loader: Any = target.deed_base if early_exit else type(target)
        saved = loader.from_pretrained(folder, dtype=target.dtype).state_dict()
        result = target.load_state_dict(saved, strict=False)
        missing = [name for name in result.missing_keys if not name.startswith(PREFIX)]
        if missing or result.unexpected_keys:
            raise ValueError(f"{folder} does not fit the model: {[*missing, *result.unexpected_keys][:4]}")
        if early_exit:
            load_exits_into(target, folder)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        return BucketSampler(self.lengths, self.args.train_batch_size, self.args.seed)


class BucketSampler(Sampler[int]):
    """Batches of like length in random order, so that little of a batch is padding; the same for a seed and an epoch."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int, pool: int = 50) -> None:
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size, batches = self.batch_size * self.pool, []
        for at in range(0, len(order), size):
            pool = sorted(order[at : at + size], key=lambda i: self.lengths[i])
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        # The one short batch stays last: elsewhere it would shift the borders of all batches after it.
        tail = [batches.pop(i) for i in range(len(batches)) if len(batches[i]) < self.batch_size][:1]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        for batch in tail:
            yield from batch


class DropoutWindow(TrainerCallback):
    """Dropout at `rate` in steps `start` to `stop` only: a small model first has to fit (Liu et al. 2023, "Dropout Reduces
    Underfitting", section 5). Depends on the step alone, so a resumed run goes on alike."""

    def __init__(self, rate: float, start: int, stop: int) -> None:
        self.rate, self.start, self.stop, self.now = rate, start, stop, -1.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rate = self.rate if self.start <= state.global_step < self.stop else 0.0
        if rate == self.now:
            return
        self.now = rate
        for module in kwargs["model"].modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate
            elif isinstance(getattr(module, "dropout", None), float):  # attention keeps its rate as a number
                module.dropout = rate


def check_recipe(output: Path, recipe: Any) -> None:
    """Write the recipe, or make sure that a run being continued has the same one.

    Raises:
        ValueError: `output` holds a run of another recipe.
    """
    path = output / "recipe.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k, v in asdict(recipe).items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{output} holds a run with another {', '.join(changed)}; choose another --output or delete it"
            )
        return
    temporary = path.with_name(f"recipe.json.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def last_complete_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end; one cut short by a kill is put aside.

    Trainer writes `trainer_state.json` last, so a checkpoint with a readable one is whole.
    """
    found = sorted(output.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for folder in found:
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            return str(folder)
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
    return None


def publish(trainer: Any, model: Any, tokenizer: Any, output: Path, recipe: Any) -> None:
    """Write `output/model` (fp32, complete or not at all) and the training log beside it."""
    target, temporary = output / "model", output / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.config.use_cache = True  # Trainer switches it off and would leave it so in the folder
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    with (temporary / "training_log.jsonl").open("w", encoding="utf-8") as log:
        for row in trainer.state.log_history:
            log.write(json.dumps(row) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
