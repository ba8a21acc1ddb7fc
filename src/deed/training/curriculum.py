"""Loss-gated curriculum: the task grows by one step whenever the model has learned the present one.

Growing by the clock does not teach a small model to copy from a page; growing when the loss says so does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from deed.utils.files import read_json

FILE = "curriculum.json"


class LossGatedCurriculum(TrainerCallback):
    """A level that rises by one when the running loss falls below `threshold`, up to `top`.

    Kept in each checkpoint as `curriculum.json`, so a resumed run goes on at its level. `level` is a shared tensor: data
    workers see it rise.

    Args:
        threshold: of the running loss of the last exit, per token.
        top: the last level.
        momentum: share of the running loss that remains with each new batch (exponential moving average).
        patience: batches on a level before it may rise, so that the running loss is the level's own.
        longest: batches on a level after which it rises whatever the loss; None: it waits.
    """

    def __init__(
        self,
        threshold: float = 0.12,
        top: int = 8,
        momentum: float = 0.95,
        patience: int = 30,
        longest: int | None = None,
    ) -> None:
        self.threshold, self.top, self.momentum, self.patience = threshold, top, momentum, patience
        self.longest = longest
        self.level = torch.ones(1, dtype=torch.long).share_memory_()
        self.running: float | None = None
        self.seen = 0
        self.risen: list[tuple[int, int]] = []  # (level, optimizer step at which it was reached)

    def update(self, loss: float, step: int) -> None:
        """Take in the loss of a batch of the present level, seen at an optimizer step."""
        self.running = loss if self.running is None else self.momentum * self.running + (1 - self.momentum) * loss
        self.seen += 1
        level = int(self.level)
        learned = self.seen >= self.patience and self.running < self.threshold
        if level < self.top and (learned or self.seen >= (self.longest or float("inf"))):
            self.level.fill_(level + 1)
            self.risen.append((level + 1, step))
            self.running, self.seen = None, 0

    def state(self) -> dict[str, Any]:
        """What `curriculum.json` holds."""
        return {"level": int(self.level), "running": self.running, "seen": self.seen, "risen": self.risen}

    def load(self, values: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.level.fill_(int(values["level"]))
        self.running, self.seen = values["running"], int(values["seen"])
        self.risen = [(int(level), int(step)) for level, step in values["risen"]]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the level into the checkpoint.

        Args:
            args, state, control, kwargs: as in `TrainerCallback`.
        """
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.save(folder)

    def save(self, folder: Path) -> None:
        """Write `curriculum.json` into a folder."""
        (folder / FILE).write_text(json.dumps(self.state()) + "\n", encoding="utf-8")

    def resume(self, checkpoint: str | Path | None) -> None:
        """Read the level of a checkpoint, if it has one.

        Raises:
            ValueError: a damaged `curriculum.json`.
        """
        path = Path(checkpoint or "") / FILE
        if checkpoint is None or not path.is_file():
            return
        try:
            self.load(read_json(path))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); delete it to start at level 1"
            ) from None
