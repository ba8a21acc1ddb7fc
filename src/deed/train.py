"""Training: Transformers' `Seq2SeqTrainer` on Accelerate, with what early exit adds to it, and the resumable task run.

`DeedTrainer` logs the loss of every exit and reads the adaptation modules back when it resumes (a plain
`Seq2SeqTrainer` trains a deed model just as well, but restores only the base model's weights from a checkpoint).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    set_seed,
)

from .config import DeedConfig
from .model import DeedMixin, get_deed_model
from .saving import load_exits_into


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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_exits(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_exits(self.state.best_model_checkpoint)

    def _load_exits(self, folder: str | None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if folder is not None and isinstance(model, DeedMixin):
            load_exits_into(model, folder)

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


@dataclass
class Recipe:
    """What a training run is, saved beside its result.

    Args:
        steps: optimizer steps.
        batch_size: pairs per step and process.
        learning_rate: peak of a linear warm-up and decay.
        dropout: rate in steps `dropout_start` to `dropout_stop`, none outside (see `DropoutWindow`).
        conventional: train the plain model (last layer's loss only), for comparison.
        start: folder of a saved model to go on from, with a fresh optimizer and schedule (a further stage).
        base: folder of a trained model whose backbone is kept frozen; only adaptation modules are trained, by
            self-distillation from its last layer (`deed tune`).
        bf16: bfloat16 autocast.
    """

    steps: int = 9500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.05
    dropout: float = 0.1
    dropout_start: int = 4500
    dropout_stop: int = 6250
    n_layers: int = 8
    d_model: int = 128
    d_ff: int = 512
    adapter: str = "residual_linear"
    loss: str = "deed"
    conventional: bool = False
    start: str | None = None
    base: str | None = None
    bf16: bool = True
    seed: int = 0
    save_every: int = 250
    log_every: int = 100
    eval_every: int = 1500


def train_g2p(output: Path, recipe: Recipe, data: Path | None = None, limit: int | None = None) -> dict[str, Any]:
    """Train the CMUdict model; continues from the last complete checkpoint in `output` when there is one.

    Args:
        output: run folder; the model is written to `output/model`.
        data: a dictionary file, None for the packaged one.
        limit: use only so many training words (for tests).

    Returns:
        `{"steps", "train_loss", "validation": {…}}`.
    """
    from .tasks import g2p

    set_seed(recipe.seed)
    model, tokenizer = start_g2p(recipe)
    train_rows, validation = g2p.load_split("train", data)[:limit], g2p.load_split("validation", data)[:limit]
    train_set = g2p.encode_pairs(train_rows, tokenizer)
    answers = [a for _, a in validation]
    eval_set = g2p.encode_pairs([(word, listed[:1]) for word, listed in validation], tokenizer)

    def measure(prediction: Any) -> dict[str, float]:
        return g2p.score_ids(prediction.predictions, answers, tokenizer)

    output.mkdir(parents=True, exist_ok=True)
    check_recipe(output, recipe)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(output),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=128,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=recipe.bf16,
        seed=recipe.seed,
        save_steps=recipe.save_every,
        save_total_limit=2,
        logging_steps=recipe.log_every,
        eval_strategy="steps" if eval_set else "no",
        eval_steps=recipe.eval_every,
        predict_with_generate=True,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        dataloader_num_workers=0,
    )
    trainer = DeedTrainer(
        model=model,
        args=arguments,
        train_dataset=train_set,  # type: ignore[arg-type]
        eval_dataset=eval_set,  # type: ignore[arg-type]
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=measure if eval_set else None,
        callbacks=[DropoutWindow(recipe.dropout, recipe.dropout_start, recipe.dropout_stop)],
        lengths=[len(x["input_ids"]) * 64 + len(x["labels"]) for x in train_set],
    )
    result = trainer.train(resume_from_checkpoint=last_complete_checkpoint(output))
    metrics = trainer.evaluate() if eval_set else {}
    if trainer.is_world_process_zero():
        publish(trainer, model, tokenizer, output, recipe)
    return {"steps": result.global_step, "train_loss": result.training_loss, "validation": metrics}


def start_g2p(recipe: Recipe) -> tuple[Any, Any]:
    """The model a run starts from, and its tokenizer. Thresholds stay above 1 (full depth) until calibrated."""
    from .tasks import g2p, g2p_run

    if recipe.base is not None:
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(recipe.base)
            tokenizer = AutoTokenizer.from_pretrained(recipe.base)
        except (OSError, ValueError) as error:
            raise ValueError(f"the base model in {recipe.base} cannot be loaded: {error}") from None
        model = get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss="distill", threshold=2.0))
        model.freeze_backbone()
        return model, tokenizer
    if recipe.start is not None:
        model, tokenizer = g2p_run.load(Path(recipe.start))
        model.deed_config.threshold, model.deed_config.calibration = 2.0, None
        return model, tokenizer
    tokenizer = g2p.build_tokenizer()
    model = g2p.build_model(tokenizer, recipe.n_layers, recipe.d_model, recipe.d_ff, recipe.dropout)
    if not recipe.conventional:
        model = get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss=recipe.loss, threshold=2.0))
    return model, tokenizer


def check_recipe(output: Path, recipe: Recipe) -> None:
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


def publish(trainer: Any, model: Any, tokenizer: Any, output: Path, recipe: Recipe) -> None:
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
