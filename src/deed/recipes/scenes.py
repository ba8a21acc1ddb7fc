"""`deed train --task scenes`: a small OFA from scratch on scenes and easy-vqa, all tasks at once, in one resumable run.

Referring expressions, captions and questions about generated scenes, whose number of things grows over the first steps,
and the questions of easy-vqa. A batch is a function of seed and index, so a resumed run sees what an unbroken one would
have seen, and a conventional run what the one with deep supervision saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deed.constants import IGNORE_INDEX
from deed.data.synthetic import scenes
from deed.models.ofa import OFAForConditionalGeneration, OFAProcessor
from deed.models.ofa import small as small_ofa
from deed.training.trainer import BatchTrainer

from . import easy_vqa
from .recipe import check_start, prepared, started
from .run import Parts, only_item, run_recipe, whole_batches
from .scene_batches import KINDS, SceneBatches, ScenesRecipe
from .scene_stem import pretrained_stem


class ScenesTrainer(BatchTrainer):
    """`BatchTrainer` that logs the last exit's loss of each task beside those of the exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sums = torch.zeros(2, len(KINDS))  # losses and tokens since the last log

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, with each task's part noted for the log.

        Args:
            model, inputs, return_outputs, num_items_in_batch: as in `Trainer.compute_loss`.
        """
        kinds = inputs.pop("kinds")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        labels = inputs["labels"]
        with torch.no_grad():
            logits = outputs["logits"].flatten(0, 1).float()
            each = torch.nn.functional.cross_entropy(
                logits, labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX
            )
            rows = torch.stack([each.view_as(labels).sum(1), (labels != IGNORE_INDEX).sum(1).float()])
            self.sums.index_add_(1, kinds.cpu(), rows.cpu())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The log, with the loss of each task since the last one."""
        if "loss" in logs:
            for kind, (total, count) in zip(KINDS, self.sums.T.tolist(), strict=True):
                if count:
                    logs[f"{kind}_loss"] = round(total / count, 4)
            self.sums.zero_()
        super().log(logs, start_time)


def vocabulary() -> Iterator[str]:
    """What the tokenizer learns its pieces from."""
    yield from scenes.vocabulary_texts(1000)
    for word in easy_vqa.words():
        yield from [word] * 50


def start_scenes(recipe: ScenesRecipe) -> tuple[Any, OFAProcessor]:
    """Fresh model and processor, or those of `recipe.start`."""
    if recipe.start:
        check_start(recipe, OFAForConditionalGeneration, "an OFA")
        model = started(recipe, OFAForConditionalGeneration)
        if model.config.freeze_resnet:  # pretrained: it stays as it is
            model.get_encoder().embed_images.requires_grad_(False)
        return with_bins(model, OFAProcessor.from_pretrained(Path(recipe.start)))
    tokenizer = small_ofa.build_tokenizer(vocabulary(), recipe.vocab_size)
    model = small_ofa.build_model(
        tokenizer,
        recipe.encoder_layers,
        recipe.decoder_layers,
        recipe.d_model,
        recipe.d_ff,
        stem_depths=(1, recipe.stem_blocks, recipe.stem_blocks),
        freeze_resnet=recipe.stem_steps > 0,
    )
    return with_bins(prepared(model, recipe), small_ofa.build_processor(tokenizer))


def with_bins(model: Any, processor: OFAProcessor) -> tuple[Any, OFAProcessor]:
    """The same; a deed model with the confidence measure for coordinate bins."""
    if hasattr(model, "deed_config"):
        model.deed_config.confidence = small_ofa.confidence(processor.tokenizer)
    return model, processor


def train_scenes(
    output: Path, recipe: ScenesRecipe, limit: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Train the OFA on scenes; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `ScenesRecipe`.
        limit: use only so many pictures of easy-vqa (for tests).
        minutes: stop after so many, with a checkpoint.
    """

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        pictures = easy_vqa.load_pictures(limit)
        stem_log = [] if recipe.start or not recipe.stem_steps else pretrained_stem(model, output, recipe, pictures)
        return Parts(SceneBatches(recipe, processor, pictures), only_item, trainer=ScenesTrainer, log=stem_log)

    arguments = {**whole_batches(recipe.workers), "lr_scheduler_type": "cosine", "adam_beta2": 0.98}
    return run_recipe(output, recipe, start_scenes, plan, minutes, **arguments)
