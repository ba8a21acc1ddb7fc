"""`deed train --task docvqa --data DIR --base T5 --vit VIT`: a LaTr++ from a T5 and a ViT, on a data set on disk.

Examples stream from the data set's own files; pages without OCR are read by `deed.ocr`, once, since readings are cached.
`objective="denoise"` is LaTr's layout-aware pre-training on the same pages (no answers needed).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil

from deed.data.base import Example
from deed.data.registry import READERS, check_task, read
from deed.models.latr import LatrForConditionalGeneration, LatrProcessor
from deed.models.latr.denoising import mask_spans
from deed.ocr.words import Word
from deed.tasks.documents import DocumentTask
from deed.tasks.image_task import read_words_of
from deed.tasks.loading import load_processor

from .recipe import Count, Natural, Recipe, new_exits
from .run import Parts, run_recipe, streamed
from .task_data import ExampleStream, encoder, held_out_scores


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
        skip_missing: leave out examples whose picture is missing, and say how many.
        max_length: tokens of question and words.
        max_answer: tokens of an answer; longer ones are cut.
        eval_count: questions of the validation split scored at the end.
    """

    task: str = field(metadata={"help": argparse.SUPPRESS})
    data: str | None = field(default=None, metadata={"help": argparse.SUPPRESS})
    base: str
    start_needs: ClassVar[dict[str, str]] = {
        "base": "starts from a T5 checkpoint: give --base (and --vit for pictures)"
    }
    vit: str | None = None
    train_vit: bool = False
    objective: Literal["answer", "denoise"] = "answer"
    ocr: str = "rapidocr"
    skip_missing: bool = False
    max_length: Count = 512
    max_answer: Count = 64
    eval_count: Natural = 200


def document_stream(recipe: DocumentRecipe, processor: LatrProcessor, limit: int | None = None) -> ExampleStream:
    """Training examples: questions with answers, or, to denoise, any page with words.

    Args:
        recipe: `task`, `data`, `objective`, `ocr`, `max_answer`, `seed`.
        processor: encodes.
        limit: use only so many examples.
    """
    answer = encoder(DocumentTask(recipe.task), processor)

    def encode(example: Example, rng: random.Random) -> dict[str, Any] | None:
        if recipe.objective == "answer" and not example.answers:
            return None  # before its page is read for nothing
        example = with_words(example, recipe)
        if recipe.objective == "denoise":
            if len(example.words) < 2:
                return None
            words, target = mask_spans(example.words, rng)
            example = replace(example, question="read", words=[Word(*w) for w in words], answers=[target])
        row = answer(example, rng)
        return {**row, "labels": row["labels"][: recipe.max_answer]}

    return ExampleStream(lambda: examples_of(recipe, "train"), encode, recipe.seed, limit, processor.tokenizer)


def examples_of(recipe: Any, split: str) -> Iterator[Example]:
    """The data set's examples as its reader gives them.

    Raises:
        DataError: no `recipe.data` for a data set on disk; see also its reader.
    """
    return read(recipe.task, Path(recipe.data) if recipe.data else None, split, skip_missing=recipe.skip_missing)


def with_words(example: Example, recipe: DocumentRecipe) -> Example:
    """The example with words: its data set's own, or, where that brings none, what the OCR engine reads."""
    return read_words_of(example, recipe.ocr) if READERS[recipe.task].needs_ocr else example


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

    task = DocumentTask(recipe.task)

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        def held_out() -> Iterator[Example]:
            with_answers = (example for example in examples_of(recipe, "val") if example.answers)
            return (with_words(example, recipe) for example in itertools.islice(with_answers, recipe.eval_count))

        def validate() -> dict[str, Any]:
            return held_out_scores(
                task, model, processor, held_out, count=recipe.eval_count, max_new_tokens=recipe.max_answer
            )

        collate = functools.partial(task.collate, processor)
        scored = recipe.eval_count and recipe.objective == "answer"
        return Parts(document_stream(recipe, processor, limit), collate, validate if scored else None)

    # A frozen ViT, or a batch without pictures, has no gradients.
    return run_recipe(output, recipe, start_documents, plan, minutes, **streamed(unused=recipe.vit is not None))
