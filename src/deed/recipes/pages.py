"""`deed train --task pages`: a small LaTr++ from scratch on generated documents and easy-vqa, in one resumable run.

Stages, by optimizer step: layout-aware denoising, then questions under a mastery curriculum (pages of one field, then one
field more each time), then whole pages, at last with some that the real OCR engine has read. Pictures (easy-vqa) are mixed
in throughout. A batch is a function of seed and index, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from deed.data.base import Example
from deed.data.synthetic import pages
from deed.models.latr import LatrForConditionalGeneration, LatrProcessor
from deed.training.curriculum import Mastery
from deed.training.run_folder import check_recipe, last_complete_checkpoint, publish
from deed.training.trainer import DeedTrainer

from .arguments import training_arguments, whole_batches
from .page_batches import PageBatches, load_pictures, real_pages
from .starting import check_start, prepared, started


@dataclass
class PagesRecipe:
    """What a training run is, saved beside its result.

    Args:
        steps: optimizer steps.
        batch_size: pages per step and process; pictures come twice as many, they are short.
        learning_rate: peak of a linear warm-up and decay.
        denoise_steps: first steps, on masked words of pages.
        picture_share: share of batches from easy-vqa; a fifth of it below `top_level`.
        seen_share: share of page batches that have the pages' pictures too, the others are words and boxes only; a fifth
            of it below `top_level`.
        real_share: share of pages as the OCR engine read them, from step `real_start` on.
        mastery: running loss of the last exit at which pages get one field more.
        top_level: the level of whole pages.
        conventional: train the plain model (last layer's loss only), for comparison.
        start: go on from this saved model, with a fresh optimizer and schedule, at the level it had reached and without
            denoising; sizes are the model's own.
    """

    steps: int = 5000
    batch_size: int = 48
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    denoise_steps: int = 100
    picture_share: float = 0.35
    seen_share: float = 0.5
    real_share: float = 0.25
    real_start: int = 2000
    mastery: float = 0.2
    top_level: int = 8
    encoder_layers: int = 3
    decoder_layers: int = 8
    vision_layers: int = 2
    d_model: int = 128
    d_ff: int = 512
    adapter: str = "residual_linear"
    loss: str = "deed"
    conventional: bool = False
    start: str | None = None
    bf16: bool = True
    seed: int = 0
    save_every: int = 100
    log_every: int = 50
    workers: int = 1


class PagesTrainer(DeedTrainer):
    """`DeedTrainer` that tells the curriculum the loss of page batches, and lets large tensors take large steps."""

    mastery: Mastery

    def create_optimizer(self, model: Any = None) -> Any:
        # T5's tensors are made in very different sizes (embeddings about 1, attention about 0.02), and its own optimizer,
        # Adafactor, steps in proportion. AdamW needs to be told: at one rate, positions and pieces would hardly move.
        args = self.args
        decay = {"fast": 0.0, "slow": args.weight_decay, "bare": 0.0}
        groups: dict[str, list[Any]] = {name: [] for name in decay}
        whole: Any = self.model
        for name, parameter in whole.named_parameters():
            fast = "shared" in name or "relative_attention_bias" in name or "box_embeddings" in name
            groups["fast" if fast else "slow" if parameter.ndim > 1 else "bare"].append(parameter)
        rate = {"fast": 5 * args.learning_rate}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": group, "lr": rate.get(name, args.learning_rate), "weight_decay": decay[name]}
                for name, group in groups.items()
            ],
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
        )
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["level"] = int(self.mastery.level)
        super().log(logs, start_time)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        source = inputs.pop("source", None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and int(self.mastery.level) < self.mastery.top:
            losses = outputs.get("exit_losses")
            # A plain model's own loss is not divided by the items of all processes.
            last = (losses[-1] * self.accelerator.num_processes if losses is not None else outputs["loss"]).detach()
            # Every process takes part, whatever its batch is of: they rise together.
            mine = torch.stack([last, torch.ones_like(last)]) * (source == "pages")
            total, count = self.accelerator.reduce(mine, "sum").tolist()
            if count:
                self.mastery.update(total / count, self.state.global_step)
        return (loss, outputs) if return_outputs else loss


def start_pages(recipe: PagesRecipe) -> tuple[Any, Any]:
    """Fresh model and processor, or those of `recipe.start`."""
    from deed.data.readers import easyvqa
    from deed.models.latr import small as small_latr

    if recipe.start:
        check_start(recipe, LatrForConditionalGeneration, "a LaTr++")
        return started(recipe, LatrForConditionalGeneration), LatrProcessor.from_pretrained(Path(recipe.start))
    seen = {w for e in easyvqa.read(None, "train") for w in re.findall(r"\w+", f"{e.question} {e.answers[0]}")}
    words = [*pages.vocabulary_words(), *sorted(seen), "question", "context", "read"]
    tokenizer = small_latr.build_tokenizer(dict.fromkeys(words), pages.KEYS)
    model = small_latr.build_model(
        tokenizer, recipe.encoder_layers, recipe.decoder_layers, recipe.d_model, recipe.d_ff, recipe.vision_layers
    )
    return prepared(model, recipe), small_latr.build_processor(tokenizer)


def train_pages(
    output: Path, recipe: PagesRecipe, real: Callable[[], list[Example]] | None = None, limit: int | None = None
) -> dict[str, Any]:
    """Train; continues from the last complete checkpoint in `output` when there is one.

    Args:
        output: run folder; the model is written to `output/model`.
        real: gives the training pages as the OCR engine reads them; None: those of `tasks.pages`, read now.
        limit: use only so many pictures and real pages (for tests).

    Returns:
        `{"steps", "train_loss", "level", "risen"}`.
    """
    check_start(recipe, LatrForConditionalGeneration, "a LaTr++")
    output.mkdir(parents=True, exist_ok=True)
    check_recipe(output, recipe)
    set_seed(recipe.seed)
    model, processor = start_pages(recipe)
    if (output / "processor_config.json").is_file():  # a resumed run keeps its vocabulary
        processor = LatrProcessor.from_pretrained(output)
    else:
        processor.save_pretrained(output)
    mastery = Mastery(recipe.mastery, recipe.top_level)
    checkpoint = last_complete_checkpoint(output)
    mastery.resume(checkpoint or recipe.start)
    read = real or functools.partial(real_pages, limit)
    data = PageBatches(recipe, processor, mastery.level, read, load_pictures(limit))
    arguments = training_arguments(
        output,
        recipe,
        **whole_batches(recipe),
        adam_beta2=0.98,
        ddp_find_unused_parameters=True,  # a batch without pictures
    )
    trainer = PagesTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=only_item,
        processing_class=processor,
        callbacks=[mastery],
    )
    trainer.mastery = mastery
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)  # type: ignore[method-assign]
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        publish(trainer, model, processor, output, recipe)
        mastery.save(output / "model")
    return {
        "steps": result.global_step,
        "train_loss": result.training_loss,
        "level": int(mastery.level),
        "risen": mastery.risen,
    }


def only_item(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch that is the only item."""
    return items[0]
