"""`deed train --task docvqa --data DIR --base T5 --vit VIT`: a LaTr++ from a T5 and a ViT, on a data set on disk.

Examples stream from the data set's own files; pages without OCR are read by `deed.ocr`, once, since readings are cached.
`objective="denoise"` is LaTr's layout-aware pre-training on the same pages (no answers needed).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import set_seed

from deed.config import DeedConfig
from deed.constants import IGNORE_INDEX, NEVER_EXIT
from deed.data.base import Example
from deed.data.registry import READERS, check_task, read
from deed.errors import DataError
from deed.modeling.model import get_deed_model
from deed.models.latr import LatrForConditionalGeneration, LatrProcessor
from deed.models.latr.denoising import mask_spans
from deed.models.shared import pad_lists
from deed.ocr.words import Word
from deed.tasks import documents as document_run
from deed.tasks.answering import evaluate_task
from deed.tasks.image_task import read_words_of
from deed.tasks.loading import load_processor
from deed.training.run_folder import check_recipe, last_complete_checkpoint, publish
from deed.training.trainer import DeedTrainer

from .arguments import training_arguments

SHUFFLED = 1000  # examples held to draw from


@dataclass
class DocumentRecipe:
    """What a training run is, saved beside its result.

    Args:
        task: a name of `tasks.registry.READERS`.
        base: folder (or Hub name) of a T5 checkpoint, or of a LaTr++ to go on from.
        vit: folder (or Hub name) of a ViT checkpoint; None: words and boxes only. Kept frozen, but for its projection,
            unless `train_vit`.
        objective: `"answer"`, or `"denoise"` for layout-aware pre-training.
        max_length: tokens of question and words.
        max_answer: tokens of an answer; longer ones are cut.
        eval_count: questions of the validation split scored at the end.
    """

    task: str
    base: str
    vit: str | None = None
    data: str | None = None
    objective: str = "answer"
    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-4
    warmup_steps: int = 1000
    weight_decay: float = 0.01
    max_length: int = 512
    max_answer: int = 64
    train_vit: bool = False
    adapter: str = "residual_linear"
    loss: str = "deed"
    conventional: bool = False
    ocr: str = "rapidocr"
    bf16: bool = True
    seed: int = 0
    save_every: int = 500
    log_every: int = 50
    eval_count: int = 200


class Stream(IterableDataset):
    """Encoded training examples without end: the data set read again and again, in an order that a seed shuffles.

    Args:
        recipe: with `task`, `data` and `seed`; what else `encode` needs.
        limit: use only so many examples.
    """

    def __init__(self, recipe: Any, processor: Any, limit: int | None = None) -> None:
        self.recipe, self.processor, self.limit = recipe, processor, limit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng = random.Random(self.recipe.seed)
        while True:
            used = 0
            for example in self.shuffled(rng):
                row = self.encode(example, rng)
                if row is not None:
                    used += 1
                    yield row
            if not used:
                raise DataError(f"{self.recipe.data}: the train split of {self.recipe.task} has nothing to train on")

    def shuffled(self, rng: random.Random) -> Iterator[Example]:
        held: list[Example] = []
        for i, example in enumerate(examples_of(self.recipe, "train")):
            if self.limit is not None and i >= self.limit:
                break
            held.append(example)
            if len(held) > SHUFFLED:
                yield held.pop(rng.randrange(len(held)))
        rng.shuffle(held)
        yield from held

    def encode(self, example: Example, rng: random.Random) -> dict[str, Any] | None:
        if self.recipe.objective == "answer" and not example.answers:
            return None  # before its page is read for nothing
        example = with_words(example, self.recipe)
        if self.recipe.objective == "denoise":
            if len(example.words) < 2:
                return None
            words, target = mask_spans(example.words, rng)
            example = replace(example, question="read", words=[Word(*w) for w in words], answers=[target])
        row = document_run.encode(self.processor, example)
        labels = self.processor.encode_answer(rng.choice(example.answers))[: self.recipe.max_answer]
        return {**row, "labels": labels}


def examples_of(recipe: Any, split: str) -> Iterator[Example]:
    """The data set's examples as its reader gives them.

    Raises:
        DataError: no `recipe.data` for a data set on disk; see also its reader.
    """
    return read(recipe.task, Path(recipe.data) if recipe.data else None, split)


def with_words(example: Example, recipe: DocumentRecipe) -> Example:
    """The example with words: its data set's own, or, where that brings none, what the OCR engine reads."""
    return read_words_of(example, recipe.ocr) if READERS[recipe.task].needs_ocr else example


def collate(processor: LatrProcessor) -> Any:
    """Data collator: encoded rows to a padded batch."""

    def join(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = document_run.inputs_of(processor, [{k: v for k, v in r.items() if k != "labels"} for r in rows])
        return {**inputs, "labels": pad_lists([r["labels"] for r in rows], IGNORE_INDEX)}

    return join


def start_documents(recipe: DocumentRecipe) -> tuple[Any, LatrProcessor]:
    """The model a run starts from, and its processor.

    Raises:
        ValueError: a checkpoint that is missing or of another kind.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil

    try:
        if AutoConfig.from_pretrained(recipe.base).model_type == "latr":
            if recipe.vit is not None:
                raise ValueError("--base is a LaTr++ already, which has its ViT; leave --vit out")
            model: Any = LatrForConditionalGeneration.from_pretrained(recipe.base)
            processor = load_processor(Path(recipe.base))
            processor.max_length = recipe.max_length
        else:
            model = LatrForConditionalGeneration.from_t5_vit_pretrained(recipe.base, recipe.vit)
            pictures = AutoImageProcessor.from_pretrained(recipe.vit) if recipe.vit else ViTImageProcessorPil()
            tokenizer = AutoTokenizer.from_pretrained(recipe.base)
            processor = LatrProcessor(pictures, tokenizer, max_length=recipe.max_length, sees=recipe.vit is not None)
    except (OSError, ValueError) as error:
        raise ValueError(f"the models to start from cannot be loaded: {error}") from None
    model.config.freeze_vision = model.encoder.config.freeze_vision = not recipe.train_vit
    if not recipe.conventional:
        get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss=recipe.loss, threshold=NEVER_EXIT))
    return model, processor


def train_documents(output: Path, recipe: DocumentRecipe, limit: int | None = None) -> dict[str, Any]:
    """Train; continues from the last complete checkpoint in `output` when there is one. Also under `torchrun`.

    Args:
        output: run folder; the model is written to `output/model`.
        limit: use only so many training examples (for tests).

    Returns:
        `{"steps", "train_loss", "validation": {…}}`.

    Raises:
        DataError: unknown task, missing or broken data.
        ValueError: another recipe in `output`, or models that cannot be loaded.
    """
    check_task(recipe.task, "latr")
    if recipe.objective not in ("answer", "denoise"):
        raise DataError(f"objective must be 'answer' or 'denoise', got {recipe.objective!r}")
    next(examples_of(recipe, "train"))  # missing data is told before models are loaded
    set_seed(recipe.seed)
    model, processor = start_documents(recipe)
    stream = Stream(recipe, processor, limit)
    # A frozen ViT, a batch without pictures.
    return fine_tune(output, recipe, model, stream, collate(processor), validate, unused=recipe.vit is not None)


def fine_tune(
    output: Path,
    recipe: Any,
    model: Any,
    stream: Stream,
    join: Any,
    validate: Callable[[Any, Any, Any], dict[str, Any]],
    unused: bool,
) -> dict[str, Any]:
    """Train on a stream, publish the model and validate it; continues where a run in `output` stopped.

    Args:
        recipe: with the fields of `DocumentRecipe` that say how to train.
        join: data collator.
        validate: `(model, processor, recipe)` to scores.
        unused: whether a step may leave parameters without gradients.

    Raises:
        ValueError: another recipe in `output`.
    """
    arguments = training_arguments(
        output,
        recipe,
        per_device_train_batch_size=recipe.batch_size,
        remove_unused_columns=False,
        # Each process reads the stream and keeps its share: batches of different lengths cannot be dealt out by one.
        accelerator_config={"dispatch_batches": False},
        ddp_find_unused_parameters=unused,
    )
    with arguments.main_process_first():
        output.mkdir(parents=True, exist_ok=True)
        check_recipe(output, recipe)
    processor = stream.processor
    trainer = DeedTrainer(
        model=model, args=arguments, train_dataset=stream, data_collator=join, processing_class=processor
    )
    result = trainer.train(resume_from_checkpoint=last_complete_checkpoint(output))
    validation: dict[str, Any] = {}
    if trainer.is_world_process_zero():
        publish(trainer, model, processor, output, recipe)
        if recipe.eval_count:
            validation = validate(model, processor, recipe)
    return {"steps": result.global_step, "train_loss": result.training_loss, "validation": validation}


def validate(model: Any, processor: LatrProcessor, recipe: DocumentRecipe) -> dict[str, Any]:
    """The data set's metric on the first `eval_count` validation questions, at full depth; nothing after pre-training."""
    if recipe.objective != "answer":
        return {}
    with_answers = (example for example in examples_of(recipe, "val") if example.answers)
    examples = (with_words(example, recipe) for example in islice(with_answers, recipe.eval_count))
    task = document_run.DocumentTask(recipe.task)
    used, results = evaluate_task(task, model.eval(), processor, examples, max_new_tokens=recipe.max_answer)
    return {k: v for k, v in results[0].items() if k not in ("threshold", "mean_depth")} if used else {}
