"""`deed train --task scenes`: a small OFA from scratch on scenes and easy-vqa, all tasks at once, in one resumable run.

Referring expressions, captions and questions about generated scenes, whose number of things grows over the first steps,
and the questions of easy-vqa. A batch is a function of seed and index, so a resumed run sees what an unbroken one would
have seen, and a conventional run what the one with deep supervision saw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from deed.constants import IGNORE_INDEX
from deed.data.readers import easyvqa
from deed.data.synthetic import scenes
from deed.models.ofa import OFAForConditionalGeneration, OFAProcessor
from deed.models.ofa import small as small_ofa
from deed.training.run_folder import check_recipe, last_complete_checkpoint, publish
from deed.training.trainer import DeedTrainer

from .arguments import training_arguments, whole_batches
from .page_batches import load_pictures
from .pages import only_item
from .scene_batches import KINDS, SceneBatches
from .scene_stem import schooled
from .starting import check_start, prepared, started


@dataclass
class ScenesRecipe:
    """What a training run is, saved beside its result.

    Args:
        steps: optimizer steps; the schedule's length, fixed when a run starts.
        batch_size: pictures per step.
        learning_rate: peak of a linear warm-up and a cosine down to nothing.
        caption_share, refer_share, vqa_share, region_share: shares of the tasks on scenes; what is left to 1 is easy-vqa.
        naming_share: of easy-vqa's questions, those that ask for a shape's name: a tenth of the data set's.
        stem_steps: steps of the stem's own schooling before (`scene_stem.py`), after which it stays as it is; 0: none, and
            the stem learns with the rest.
        stem_learning_rate: its peak.
        grow_steps: steps over which scenes grow from two things to up to five; with `start` they have grown.
        conventional: train the plain model (last layer's loss only), for comparison.
        start: go on from this saved model, with a fresh optimizer and schedule; sizes are the model's own.
    """

    steps: int = 5000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    caption_share: float = 0.2
    refer_share: float = 0.4
    vqa_share: float = 0.13
    region_share: float = 0.13
    naming_share: float = 0.3
    stem_steps: int = 1200
    stem_learning_rate: float = 3e-3
    grow_steps: int = 800
    encoder_layers: int = 3
    decoder_layers: int = 8
    d_model: int = 160
    d_ff: int = 480
    stem_blocks: int = 1
    vocab_size: int = 1024
    adapter: str = "residual_linear"
    loss: str = "deed"
    conventional: bool = False
    start: str | None = None
    bf16: bool = False
    seed: int = 0
    save_every: int = 250
    log_every: int = 50
    workers: int = 1


class ScenesTrainer(DeedTrainer):
    """`DeedTrainer` that logs the last exit's loss of each task beside those of the exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sums = torch.zeros(2, len(KINDS))  # losses and tokens since the last log

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
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
        if "loss" in logs:
            for kind, (total, count) in zip(KINDS, self.sums.T.tolist(), strict=True):
                if count:
                    logs[f"{kind}_loss"] = round(total / count, 4)
            self.sums.zero_()
        super().log(logs, start_time)


def vocabulary() -> Iterator[str]:
    """What the tokenizer learns its pieces from."""
    yield from scenes.vocabulary_texts(1000)
    for word in sorted(
        {w for e in easyvqa.read(None, "train") for w in re.findall(r"\w+", f"{e.question} {e.answers[0]}")}
    ):
        yield from [word] * 50


def start_scenes(recipe: ScenesRecipe) -> tuple[Any, OFAProcessor]:
    """Fresh model and processor, or those of `recipe.start`."""
    if recipe.start:
        check_start(recipe, OFAForConditionalGeneration, "an OFA")
        model = started(recipe, OFAForConditionalGeneration)
        if model.config.freeze_resnet:  # schooled before: it stays as it is
            model.get_encoder().embed_images.requires_grad_(False)
        return judged(model, OFAProcessor.from_pretrained(Path(recipe.start)))
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
    return judged(prepared(model, recipe), small_ofa.build_processor(tokenizer))


def judged(model: Any, processor: OFAProcessor) -> tuple[Any, OFAProcessor]:
    """The same, a deed model with the confidence that goes with its bins."""
    if hasattr(model, "deed_config"):
        model.deed_config.confidence = small_ofa.confidence(processor.tokenizer)
    return model, processor


def train_scenes(output: Path, recipe: ScenesRecipe, limit: int | None = None) -> dict[str, Any]:
    """Train; continues from the last complete checkpoint in `output` when there is one.

    Args:
        output: run folder; the model is written to `output/model`.
        limit: use only so many pictures of easy-vqa (for tests).

    Returns:
        `{"steps", "train_loss"}`.

    Raises:
        ValueError: another recipe in `output`, or a model to go on from that does not fit.
    """
    check_start(recipe, OFAForConditionalGeneration, "an OFA")
    output.mkdir(parents=True, exist_ok=True)
    check_recipe(output, recipe)
    set_seed(recipe.seed)
    model, processor = start_scenes(recipe)
    if (output / "processor_config.json").is_file():  # a resumed run keeps its vocabulary
        processor = OFAProcessor.from_pretrained(output)
    else:
        processor.save_pretrained(output)
    pictures = load_pictures(limit)
    checkpoint, stem_log = last_complete_checkpoint(output), []
    if recipe.stem_steps and not recipe.start:
        stem_log = schooled(model, output, recipe, pictures)
    data = SceneBatches(recipe, processor, pictures)
    arguments = training_arguments(
        output, recipe, **whole_batches(recipe), lr_scheduler_type="cosine", adam_beta2=0.98
    )
    trainer = ScenesTrainer(
        model=model, args=arguments, train_dataset=data, data_collator=only_item, processing_class=processor
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)  # type: ignore[method-assign]
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        trainer.state.log_history = [*stem_log, *trainer.state.log_history]
        publish(trainer, model, processor, output, recipe)
    return {"steps": result.global_step, "train_loss": result.training_loss}
