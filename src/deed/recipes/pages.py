"""`deed train --task pages`: a small LaTr++ from scratch on generated documents and easy-vqa, in one resumable run.

Stages, by optimizer step: layout-aware denoising, then questions under a loss-gated curriculum (pages of one field, then
one field more each time), then whole pages, at last with some that the real OCR engine has read. Pictures (easy-vqa) are
mixed in throughout. A batch is a function of seed and index, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deed.data.base import Example
from deed.data.synthetic import pages
from deed.models.latr import LatrForConditionalGeneration, LatrProcessor
from deed.models.latr import small as small_latr
from deed.training.curriculum import LossGatedCurriculum
from deed.training.muon import MuonWithAdamW
from deed.training.trainer import BatchTrainer

from . import easy_vqa
from .page_batches import PageBatches, PagesRecipe, real_pages
from .recipe import check_start, prepared, started
from .run import Parts, only_item, run_recipe, whole_batches

# Large tensors, in parts of their names: embeddings of pieces, places, boxes and cells.
FAST = ("shared", "relative_attention_bias", "relative_bias", "box_embeddings", "cell_marks")


class PagesTrainer(BatchTrainer):
    """`BatchTrainer` that tells the curriculum the loss of page batches, and lets large tensors take large steps.

    Args:
        args, kwargs: of `DeedTrainer`.
        curriculum: whose level rises with them.
        muon: matrices learn by Muon.
    """

    def __init__(self, *args: Any, curriculum: LossGatedCurriculum, muon: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.curriculum, self.muon = curriculum, muon

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW with a rate of its own for each size of tensor, or Muon for the matrices and AdamW for the rest."""
        # T5's tensors are made in very different sizes (embeddings about 1, attention about 0.02), and its own optimizer,
        # Adafactor, steps in proportion. AdamW needs to be told: at one rate, positions and pieces would hardly move.
        args = self.args
        whole: Any = self.model
        groups: dict[str, list[Any]] = {"fast": [], "matrices": [], "more": [], "bare": []}
        for name, parameter in whole.named_parameters():
            fast = any(part in name for part in FAST)
            kind = {1: "bare", 2: "matrices"}.get(parameter.ndim, "more")
            groups["fast" if fast else kind].append(parameter)
        slow = groups["more"] if self.muon else groups["more"] + groups["matrices"]
        rest: list[dict[str, Any]] = [
            {"params": groups["fast"], "lr": 5 * args.learning_rate},
            {"params": slow, "weight_decay": args.weight_decay},
            {"params": groups["bare"]},
        ]
        common: dict[str, Any] = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2)}
        if self.muon:
            self.optimizer = MuonWithAdamW(groups["matrices"], rest, weight_decay=args.weight_decay, **common)
        else:
            self.optimizer = torch.optim.AdamW(rest, weight_decay=0.0, fused=True, **common)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The log, with the curriculum's level."""
        if "loss" in logs:
            logs["level"] = int(self.curriculum.level)
        super().log(logs, start_time)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, whose last exit's part the curriculum is told.

        Args:
            model, inputs, return_outputs, num_items_in_batch: as in `Trainer.compute_loss`.
        """
        source = inputs.pop("source", None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and int(self.curriculum.level) < self.curriculum.top:
            losses = outputs.get("exit_losses")
            # A plain model's own loss is not divided by the items of all processes.
            last = (losses[-1] * self.accelerator.num_processes if losses is not None else outputs["loss"]).detach()
            # Every process takes part, whatever its batch is of: they rise together.
            mine = torch.stack([last, torch.ones_like(last)]) * (source == "pages")
            total, count = self.accelerator.reduce(mine, "sum").tolist()
            if count:
                self.curriculum.update(total / count, self.state.global_step)
        return (loss, outputs) if return_outputs else loss


def start_pages(recipe: PagesRecipe) -> tuple[Any, Any]:
    """Fresh model and processor, or those of `recipe.start`."""
    if recipe.start:
        check_start(recipe, LatrForConditionalGeneration, "a LaTr++")
        return started(recipe, LatrForConditionalGeneration), LatrProcessor.from_pretrained(Path(recipe.start))
    words = [*pages.vocabulary_words(), *easy_vqa.words(), "question", "context", "read"]
    tokenizer = small_latr.build_tokenizer(dict.fromkeys(words), pages.KEYS)
    model = small_latr.build_model(
        tokenizer, recipe.encoder_layers, recipe.decoder_layers, recipe.d_model, recipe.d_ff, recipe.vision_layers
    )
    return prepared(model, recipe), small_latr.build_processor(tokenizer)


def train_pages(
    output: Path,
    recipe: PagesRecipe,
    real: Callable[[], list[Example]] | None = None,
    limit: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train the LaTr++ on pages; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `PagesRecipe`.
        real: gives the training pages as the OCR engine reads them; None: they are read when first needed.
        limit: use only so many pictures and real pages (for tests).
        minutes: stop after so many, with a checkpoint.

    Returns:
        What `run_recipe` does, and `"level"` and `"risen"` of the curriculum.
    """
    curriculum = LossGatedCurriculum(recipe.curriculum_loss, recipe.top_level)

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        curriculum.resume(checkpoint or recipe.start)
        read = real or functools.partial(real_pages, limit)
        data = PageBatches(recipe, processor, curriculum.level, read, easy_vqa.load_pictures(limit))
        trainer = functools.partial(PagesTrainer, curriculum=curriculum)
        return Parts(data, only_item, trainer=trainer, callbacks=[curriculum], write_more=curriculum.save)

    arguments = {**whole_batches(recipe.workers), "adam_beta2": 0.98}
    # A batch without pictures leaves the ViT without gradients.
    result = run_recipe(output, recipe, start_pages, plan, minutes, **arguments, ddp_find_unused_parameters=True)
    return {**result, "level": int(curriculum.level), "risen": curriculum.risen}
