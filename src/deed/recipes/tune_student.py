"""The model that learns in `deed tune --recipe`, and its loss on a batch."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from deed.config import DeedConfig
from deed.constants import NEVER_EXIT
from deed.errors import DeedConfigError
from deed.exits.heads import exit_features
from deed.modeling.model import DeedMixin, get_deed_model, unwrap
from deed.tasks.task import Task
from deed.training.distill import Head, distill_sum, frozen_head
from deed.training.forced import exit_states_from

from .tune_batch import Batch
from .tune_eval import statistics_of
from .tune_recipe import TuneRecipe


def start(recipe: TuneRecipe, task: Task) -> tuple[Any, Any]:
    """The untouched model with fresh exits, all of it frozen but them, and its processor.

    Args:
        recipe: `start`, `exits`, `adapter`, `dropout`.
        task: loads it.

    Raises:
        DeedLoadError: not the folder of a saved model, or a damaged one.
        DeedConfigError: exits that the decoder does not have, or an adapter that learns nothing.
    """
    model, processor = task.load(Path(recipe.start), plain=True)
    measured = None
    if isinstance(model, DeedMixin):
        measured = model.deed_config.confidence, model.deed_config.confidence_over  # type: ignore[attr-defined]
        model = unwrap(model)  # type: ignore[call-overload]  # new exits on the same weights
    config = DeedConfig(exit_layers=list(recipe.exits), adapter=recipe.adapter, loss="distill", threshold=NEVER_EXIT)
    if measured is not None:
        config.confidence, config.confidence_over = measured
    model = get_deed_model(model, config)
    if sorted({*recipe.exits})[-1:] == model.deed_config.exit_layers[-1:]:
        raise DeedConfigError(f"--exits {recipe.exits[-1]} is the last layer, which answers in any case")
    model.freeze_backbone()
    for module in model.deed_exits.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = recipe.dropout
        elif isinstance(getattr(module, "dropout", None), float):  # attention keeps its rate as a number
            module.dropout = recipe.dropout
    return model, processor


class Student:
    """What learns, and from what.

    Args:
        model: of `start`.
        recipe: how.
    """

    def __init__(self, model: Any, recipe: TuneRecipe) -> None:
        self.model, self.recipe = model, recipe
        self.half = recipe.bf16 and next(model.parameters()).dtype == torch.float32
        self.head: Head = frozen_head(model, self.half)
        self.depths: list[int] = model.deed_config.exit_layers[:-1]

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Those that learn, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def losses(self, batch: Batch) -> dict[int, torch.Tensor]:
        """The loss of each exit on a batch, per token.

        Args:
            batch: with the states of the exits' depths.
        """
        with torch.autocast("cpu", torch.bfloat16) if self.half else nullcontext():
            states = exit_states_from(self.model, batch.source(self.model), batch.packed, batch.states)
            features = {d: exit_features(self.model, d, h[batch.chosen]) for d, h in states.items()}
        share, count = self.recipe.label_share, max(1, len(batch.labels))
        labels = batch.labels if share else None
        return {
            d: distill_sum(self.head, values.float() if self.half else values, batch.teacher, labels, share) / count
            for d, values in features.items()
        }

    def together(self, losses: dict[int, torch.Tensor]) -> torch.Tensor:
        """What is minimized: the mean over the exits."""
        return torch.stack([losses[depth] for depth in self.depths]).mean()

    def statistics(self, batches: list[Batch]) -> tuple[Any, Any]:
        """What `statistics_of` finds on held-out batches."""
        return statistics_of(self.model, batches)
