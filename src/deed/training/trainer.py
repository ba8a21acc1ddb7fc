"""Training: Transformers' `Seq2SeqTrainer` on Accelerate, with what early exit adds to it.

`DeedTrainer` logs the loss of every exit and reads the adaptation modules back when it resumes (a plain
`Seq2SeqTrainer` trains a deed model just as well, but restores only the base model's weights from a checkpoint).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Seq2SeqTrainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from deed.modeling.exits_file import load_exits_into
from deed.modeling.model import DeedMixin
from deed.modeling.saving import PREFIX

from .sampler import BucketSampler


class DeedTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` that logs `exit_loss_<depth>`, restores `deed_exits` with a checkpoint, and smooths labels at every
    exit (`label_smoothing_factor`; a plain `Seq2SeqTrainer` would take the labels away from the model, which refuses).

    Args:
        args, kwargs: of `Seq2SeqTrainer`.
        lengths: of the training examples: batches are of like lengths (`BucketSampler`).

    Raises:
        ValueError: `compute_loss_func` is given, which would train the last exit alone.

    Example:
        ```python
        from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainingArguments

        data = [{**example, "labels": example["input_ids"]} for example in held_out]
        arguments = Seq2SeqTrainingArguments("run", max_steps=2, logging_steps=1, report_to="none", use_cpu=True)
        collator = DataCollatorForSeq2Seq(tokenizer)
        trainer = deed.DeedTrainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
        trainer.train()  # logs exit_loss_1, exit_loss_2 … beside the loss
        ```
    """

    def __init__(self, *args: Any, lengths: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise ValueError("compute_loss_func turns deep supervision off; leave it out")
        if isinstance(self.accelerator.unwrap_model(self.model), DeedMixin):
            self.label_smoother = None  # it takes the labels away from the model
        self.lengths = lengths
        self._exit_losses: torch.Tensor | None = None
        self._exit_batches = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Trainer's loss, with the smoothing that it asks for and the losses of the exits noted for the log.

        Args:
            model, inputs, return_outputs, num_items_in_batch: as in `Trainer.compute_loss`.
        """
        if self.args.label_smoothing_factor and self.label_smoother is None:
            # Transformers spreads the factor over all tokens, the label among them, the model over all but the label.
            unwrapped = self.accelerator.unwrap_model(model)
            vocab = unwrapped.deed_family.vocab_size(unwrapped)
            inputs = {**inputs, "smoothing": self.args.label_smoothing_factor * (vocab - 1) / vocab}
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
        """Trainer's log, with the mean loss of every exit since the last one, over all processes."""
        if "loss" in logs and self._exit_losses is not None:
            model = self.accelerator.unwrap_model(self.model)
            mean = self.accelerator.reduce(self._exit_losses / self._exit_batches, "mean").tolist()
            for depth, value in zip(model.deed_config.exit_layers, mean, strict=True):
                logs[f"exit_loss_{depth}"] = round(value, 4)
            self._exit_losses, self._exit_batches = None, 0
        super().log(logs, start_time)

    def train_or_restore(self, checkpoint: str | None) -> tuple[int, float | None]:
        """Train, going on from a checkpoint where there is one; one of the last step is only read back (Trainer would take a
        step too many with a data set that streams).

        Returns:
            The step reached, and the mean training loss; of a finished run the last one logged.
        """
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= self.args.max_steps > 0:
                self._restore(checkpoint)
                self.state = state
                losses = [row["loss"] for row in state.log_history if "loss" in row]
                return state.global_step, losses[-1] if losses else None
        result = self.train(resume_from_checkpoint=checkpoint)
        return result.global_step, result.training_loss

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
        # Accelerate deals the batches out in turn: those of one step are of like length, as one process would have them.
        size = self.args.train_batch_size * self.args.world_size
        return BucketSampler(self.lengths, size, self.args.seed)


class BatchTrainer(DeedTrainer):
    """`DeedTrainer` for a data set whose items are whole batches, taken in their order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]
