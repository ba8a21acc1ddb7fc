"""Trainer callbacks."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback


class DropoutWindow(TrainerCallback):
    """Dropout at `rate` in steps `start` to `stop` only: a small model first has to fit (Liu et al. 2023, "Dropout Reduces
    Underfitting", section 5). Depends on the step alone, so a resumed run goes on alike."""

    def __init__(self, rate: float, start: int, stop: int) -> None:
        self.rate, self.start, self.stop, self.now = rate, start, stop, -1.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the rate of every dropout of the model, if it changes.

        Args:
            args, state, control, kwargs: as in `TrainerCallback`.
        """
        rate = self.rate if self.start <= state.global_step < self.stop else 0.0
        if rate == self.now:
            return
        self.now = rate
        for module in kwargs["model"].modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate
            elif isinstance(getattr(module, "dropout", None), float):  # attention keeps its rate as a number
                module.dropout = rate


class TimeLimit(TrainerCallback):
    """Stops after so many minutes, with a checkpoint from which the same run goes on."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end once time is up, in all processes of a run at once.

        Args:
            args, state, control, kwargs: as in `TrainerCallback`.
        """
        over = torch.tensor(time.monotonic() > self.end, dtype=torch.int, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(over, torch.distributed.ReduceOp.MAX)
        if over and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
