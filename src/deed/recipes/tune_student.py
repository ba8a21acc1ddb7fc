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
from deed.training.forced import exit_states_from, live_states

from .tune_batch import Batch
from .tune_eval import Found, statistics_of
from .tune_lora import add_lora
from .tune_recipe import TuneRecipe

DECODER_RATES = {"lora": 3e-4, "decoder": 3e-5}
EXITS = "deed_exits."  # how names of their parameters begin


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
    config.adapter_shared = recipe.adapter_shared
    config.validate()
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
    """What learns, and from what: the exits, and by `lora` or `decoder` the decoder's layers and final norm, in evaluation
    mode. Tables of tokens and the head stay as they are in any case.

    Args:
        model: of `start`; changed.
        recipe: how.

    Raises:
        DeedConfigError: LoRA, where peft is not installed or the decoder has no linear layers.
    """

    def __init__(self, model: Any, recipe: TuneRecipe) -> None:
        self.model, self.recipe = model, recipe
        self.frozen = recipe.method == "frozen"
        self.lora: Any = None  # peft's configuration
        if recipe.method == "lora":
            self.lora = add_lora(model, recipe.rank)
        elif recipe.method == "decoder":
            for p in decoder_parameters(model):
                p.requires_grad_(True)
        self.half = recipe.bf16 and next(model.parameters()).dtype == torch.float32
        self.head: Head = frozen_head(model, self.half)
        self.depths: list[int] = model.deed_config.exit_layers[:-1]

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Those that learn, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def groups(self) -> list[dict[str, Any]]:
        """Those for an optimizer: matrices with weight decay, vectors without; each group with its peak rate."""
        recipe = self.recipe
        other = recipe.decoder_rate if recipe.decoder_rate is not None else DECODER_RATES.get(recipe.method, 0.0)
        found: dict[tuple[float, float], list[Any]] = {}
        for name, p in self.parameters.items():
            rate = recipe.learning_rate if name.startswith(EXITS) else other
            found.setdefault((rate, recipe.weight_decay if p.ndim > 1 else 0.0), []).append(p)
        return [{"params": ps, "lr": rate, "peak": rate, "weight_decay": d} for (rate, d), ps in found.items()]

    def states(self, batch: Batch) -> dict[int, torch.Tensor]:
        """What the final norm gets of each exit at the chosen positions, `[chosen, d_model]`; where the decoder learns, of the
        last layer too.

        Args:
            batch: with the states of the exits' depths, or where the decoder learns one sequence a row.
        """
        model = self.model
        if self.frozen:
            states = exit_states_from(model, batch.source(model), batch.packed, batch.states)
        else:
            states = live_states(model, batch.encoder_outputs, batch.mask, batch.ids)
        return {depth: hidden[batch.chosen] for depth, hidden in states.items()}

    def features(self, batch: Batch) -> dict[int, torch.Tensor]:
        """The same of what the head gets."""
        return {depth: exit_features(self.model, depth, hidden) for depth, hidden in self.states(batch).items()}

    def losses(self, batch: Batch) -> dict[int, torch.Tensor]:
        """The loss of each exit on a batch, per token."""
        with torch.autocast("cpu", torch.bfloat16) if self.half else nullcontext():
            features = self.features(batch)
        share, count = self.recipe.label_share, max(1, len(batch.labels))
        labels = batch.labels if share else None
        return {
            d: distill_sum(self.head, values.float() if self.half else values, batch.teacher, labels, share) / count
            for d, values in features.items()
        }

    def together(self, losses: dict[int, torch.Tensor]) -> torch.Tensor:
        """What is minimized: the mean over the exits, and where the decoder learns the last layer's, weighted."""
        loss = torch.stack([losses[depth] for depth in self.depths]).mean()
        last = self.model.deed_config.exit_layers[-1]
        return loss + self.recipe.last_weight * losses[last] if last in losses else loss

    def statistics(self, batches: list[Batch]) -> Found:
        """What exits say of held-out batches."""
        return statistics_of(self.model, batches, self.features)


def decoder_parameters(model: Any) -> list[torch.nn.Parameter]:
    """Those of the decoder's layers and norms: not the tables of tokens and positions, nor the head."""
    decoder, head = model.deed_family.decoder(model), model.get_output_embeddings()
    kept = {id(p) for p in ([] if head is None else head.parameters())}
    kept |= {id(p) for m in decoder.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    return [p for p in decoder.parameters() if id(p) not in kept]
