"""`deed train --task docvqa --data DIR --base T5 --vit VIT`: a LaTr++ from a T5 and a ViT, on a data set on disk.

Examples stream from the data set's own files; pages without OCR are read by `deed.ocr`, once, since readings are cached.
`objective="denoise"` is LaTr's layout-aware pre-training on the same pages (no answers needed).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil

from deed.constants import IGNORE_INDEX, NEVER_EXIT
from deed.data.base import Example
from deed.data.registry import READERS, check_task, read
from deed.errors import DataError
from deed.models.latr import LatrForConditionalGeneration, LatrProcessor
from deed.models.latr.denoising import mask_spans
from deed.models.shared import pad_lists
from deed.ocr.words import Word
from deed.tasks import documents as document_run
from deed.tasks.held_out import read_words_of

from .recipe import Count, Natural, Recipe, new_exits
from .run import Parts, run_recipe, streamed

SHUFFLED = 1000  # examples held to draw from


@dataclass(kw_only=True)
class DocumentRecipe(Recipe):
    """A training run of a LaTr++ on a data set on disk.

    Args:
        task: a name of `deed.data.registry.READERS`.
        data: the data set's folder.
        base: folder (or Hub name) of a T5 checkpoint to start from, or of a LaTr++ to go on from.
        vit: folder (or Hub name) of a ViT checkpoint; left out: words and boxes only. Kept frozen, but for its projection,
            unless `train_vit`.
        train_vit: train the ViT too, not only its projection.
        objective: answer, or denoise for layout-aware pre-training.
        ocr: rapidocr or tesseract, for data sets that bring no OCR.
        max_length: tokens of question and words.
        max_answer: tokens of an answer; longer ones are cut.
        eval_count: questions of the validation split scored at the end.
    """

    task: str = field(metadata={"help": argparse.SUPPRESS})
    data: str | None = field(default=None, metadata={"help": argparse.SUPPRESS})
    base: str
    vit: str | None = None
    train_vit: bool = False
    objective: Literal["answer", "denoise"] = "answer"
    ocr: str = "rapidocr"
    max_length: Count = 512
    max_answer: Count = 64
    eval_count: Natural = 200


class Stream(IterableDataset):
    """Encoded training examples without end: the data set read again and again, in an order that a seed shuffles.

    Args:
        recipe: with `task`, `data` and `seed`; what else `encode` needs.
        processor: the model's.
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
        """The data set once, each example drawn from the next `SHUFFLED`."""
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
        """Model inputs and `labels` of an example; None where there is nothing to learn from it."""
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
    try:
        if AutoConfig.from_pretrained(recipe.base).model_type == "latr":
            if recipe.vit is not None:
                raise ValueError("--base is a LaTr++ already, which has its ViT; leave --vit out")
            model: Any = LatrForConditionalGeneration.from_pretrained(recipe.base)
            processor = document_run.load_processor(Path(recipe.base))
            processor.max_length = recipe.max_length
        else:
            model = LatrForConditionalGeneration.from_t5_vit_pretrained(recipe.base, recipe.vit)
            pictures = AutoImageProcessor.from_pretrained(recipe.vit) if recipe.vit else ViTImageProcessorPil()
            tokenizer = AutoTokenizer.from_pretrained(recipe.base)
            processor = LatrProcessor(pictures, tokenizer, max_length=recipe.max_length, sees=recipe.vit is not None)
    except (OSError, ValueError) as error:
        raise ValueError(f"the models to start from cannot be loaded: {error}") from None
    model.config.freeze_vision = model.encoder.config.freeze_vision = not recipe.train_vit
    return new_exits(model, recipe), processor


def train_documents(
    output: Path, recipe: DocumentRecipe, limit: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Train a LaTr++ on a data set; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `DocumentRecipe`.
        limit: use only so many training examples (for tests).
        minutes: stop after so many, with a checkpoint.

    Raises:
        DataError: unknown task, missing or broken data.
        ValueError: as `run_recipe`.
    """
    check_task(recipe.task, "latr")
    next(examples_of(recipe, "train"))  # missing data is told before models are loaded

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        scores = (lambda: validate(model, processor, recipe)) if recipe.eval_count else None
        return Parts(Stream(recipe, processor, limit), collate(processor), scores)

    # A frozen ViT, or a batch without pictures, has no gradients.
    return run_recipe(output, recipe, start_documents, plan, minutes, **streamed(unused=recipe.vit is not None))


def validate(model: Any, processor: LatrProcessor, recipe: DocumentRecipe) -> dict[str, Any]:
    """Scores on the first `eval_count` validation questions, at full depth; nothing after pre-training.

    Args:
        model: in evaluation mode.
        processor: the model's.
        recipe: `task`, `data`, `eval_count`.
    """
    if recipe.objective != "answer":
        return {}
    examples = []
    for example in examples_of(recipe, "val"):
        if example.answers:
            examples.append(with_words(example, recipe))
        if len(examples) == recipe.eval_count:
            break
    if not examples:
        return {}
    rows = [document_run.encode(processor, example) for example in examples]
    predictions, _ = document_run.answer(
        model, processor, rows, None if recipe.conventional else NEVER_EXIT, max_new_tokens=recipe.max_answer
    )
    return document_run.score(examples, predictions, READERS[recipe.task].metric)
