"""Trainer callbacks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    TrainerCallback,
)


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
