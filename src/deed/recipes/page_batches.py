"""What the pages recipe trains on: batch i of a run, from masked words over growing pages to pages the OCR engine read."""

from __future__ import annotations

import argparse
import functools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from deed.constants import IGNORE_INDEX
from deed.data.base import Example
from deed.data.synthetic import pages
from deed.data.synthetic.pages_read import read_split
from deed.models.latr.denoising import mask_spans
from deed.models.shared import pad_lists
from deed.ocr.words import Word

from .easy_vqa import SIDE, Pictures, shape_questions, turned
from .recipe import Count, Natural, Rate, Recipe, Share, Width

NAMING = 0.3  # share of picture questions that ask for a shape's name
POOL = 6  # batches drawn at once and sorted by length, so that little of a batch is padding


@dataclass(kw_only=True)
class PagesRecipe(Recipe):
    """A training run on generated pages and easy-vqa.

    Args:
        batch_size: pages per step and process; pictures come twice as many, they are short.
        denoise_steps: first steps, on masked words of pages.
        picture_share: share of batches from easy-vqa; a fifth of it below `top_level`.
        seen_share: share of page batches that have the pages' pictures too, the others are words and boxes only; a fifth
            of it below `top_level`.
        real_share: share of pages as the OCR engine read them, from step `real_start` on.
        real_start: see `real_share`.
        curriculum_loss: running loss of the last exit at which pages get one field more.
        top_level: the level of whole pages.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        vision_layers: layers of the ViT.
        d_model: width, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        start: folder of a saved model to go on from, with a fresh optimizer and schedule, at the level it had reached and
            without denoising; sizes are the model's own.
        workers: processes that make batches.
    """

    task: Literal["pages"] = field(default="pages", metadata={"help": argparse.SUPPRESS})
    steps: Count = 5000
    batch_size: Count = 48
    learning_rate: Rate = 1e-3
    warmup_steps: Natural = 200
    weight_decay: Rate = 0.02
    denoise_steps: Natural = 100
    picture_share: Share = 0.35
    seen_share: Share = 0.5
    real_share: Share = 0.25
    real_start: Natural = 2000
    curriculum_loss: Rate = 0.2
    top_level: Count = 8
    encoder_layers: Count = 3
    decoder_layers: Count = field(default=8, metadata={"aliases": "--layers"})
    vision_layers: Count = 2
    d_model: Width = 128
    d_ff: Count = 512
    start: str | None = field(default=None, metadata={"aliases": "--from"})
    save_every: Count = 100
    workers: Natural = 1

    renamed_fields: ClassVar[dict[str, str]] = {"mastery": "curriculum_loss"}


class PageBatches(Dataset):
    """Item i is a whole batch, encoded: `{"rows", "source", …}`.

    Args:
        recipe: shares, sizes and seed.
        processor: a `LatrProcessor`.
        level: shared tensor of the curriculum; `top_level` means whole pages.
        real: gives pages read by the OCR engine, as examples; called when they are first needed.
        pictures: of easy-vqa.
    """

    def __init__(
        self,
        recipe: PagesRecipe,
        processor: Any,
        level: torch.Tensor,
        real: Callable[[], list[Example]],
        pictures: Pictures,
    ) -> None:
        self.recipe, self.processor, self.level = recipe, processor, level
        self.read, (self.images, self.questions) = real, pictures
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.pooled: tuple[Any, list[Any]] = (None, [])
        self.naming = shape_questions(self.questions)
        self.layouts = list(pages.KNOWN)
        # A run that goes on from a finished model has its first stages behind it.
        self.denoise_steps, self.real_start = (0, 0) if recipe.start else (recipe.denoise_steps, recipe.real_start)

    def __len__(self) -> int:
        # A few more than are used, since Trainer fetches ahead.
        return (self.recipe.steps + 2 * POOL) * self.processes

    def __getitem__(self, index: int) -> dict[str, Any]:
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}/batch/{index}")
        # Processes wait for each other, so that in one step all of them get work of like size.
        step, process = divmod(index, self.processes)
        kind = random.Random(f"{recipe.seed}/kind/{step}")
        if step < self.denoise_steps:
            return self.collate([self.masked(rng) for _ in range(recipe.batch_size)], "denoise")
        # Pictures cost a third of the work of whole pages, and several times that of pages of one field: they mostly wait.
        share = 1.0 if int(self.level) >= recipe.top_level else 0.2
        if kind.random() < share * recipe.picture_share:
            return self.look(rng)
        pool, at = divmod(step, POOL)
        if self.pooled[0] != (pool, process):
            self.pooled = ((pool, process), self.draw(pool, process))
        return self.collate(self.pooled[1][at], "pages", seen=kind.random() < share * recipe.seen_share)

    def draw(self, pool: int, process: int = 0) -> list[list[dict[str, Any]]]:
        """`POOL` batches of pages at the present level, like lengths together; in the same order for every process."""
        rng = random.Random(f"{self.recipe.seed}/pool/{pool}/{process}")
        real = self.recipe.real_share if pool * POOL >= self.real_start else 0.0
        rows = []
        for _ in range(POOL * self.recipe.batch_size):
            if rng.random() < real:
                rows.append(self.encode(rng.choice(self.real)))
            else:
                rows.append(self.encode(self.page(rng)))
        rows.sort(key=lambda row: len(row["input_ids"]))
        size = self.recipe.batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        random.Random(f"{self.recipe.seed}/order/{pool}").shuffle(batches)
        return batches

    @functools.cached_property
    def real(self) -> list[Example]:
        """Pages as the OCR engine read them, read when first needed."""
        return self.read()

    def page(self, rng: random.Random, level: int | None = None) -> Example:
        """A question on a fresh page.

        Args:
            rng: where it is drawn from.
            level: fields on the page; None: the curriculum's.
        """
        now = int(self.level) if level is None else level
        top = now >= self.recipe.top_level
        # Some easier ones stay in, so that nothing learned is lost.
        easier = rng.random() < (0.15 if top else 0.3)
        page = pages.make_page(rng.choice(self.layouts), rng, rng.randint(1, now) if easier else None if top else now)
        question, answers, _ = pages.one_question(page, rng)
        return Example(question, answers, pages.ocr_words(page, rng), pages.sketch(page))

    def encode(self, example: Example) -> dict[str, Any]:
        """An example's ids, boxes, labels and picture."""
        ids, boxes = self.processor.encode(example.question, example.words)
        return {
            "input_ids": ids,
            "bbox": boxes,
            "labels": self.processor.encode_answer(example.answers[0]),
            "image": example.image,
        }

    def masked(self, rng: random.Random) -> dict[str, Any]:
        """An encoded page of layout-aware denoising: spans of words masked, to be told."""
        while True:
            example = self.page(rng, rng.randint(2, 4))
            if len(example.words) >= 4:
                break
        words, target = mask_spans(example.words, rng)
        return self.encode(Example("read", [target], [Word(*w) for w in words], example.image))

    def look(self, rng: random.Random) -> dict[str, Any]:
        """A batch of questions on pictures of easy-vqa, each turned one of eight ways."""
        size = 2 * self.recipe.batch_size
        picked = [rng.choice(self.naming if rng.random() < NAMING else self.questions) for _ in range(size)]
        rows = []
        for question, answer, image in picked:
            ids, boxes = self.processor.encode(question, [])
            row = {"input_ids": ids, "bbox": boxes, "labels": self.processor.encode_answer(answer)}
            rows.append({**row, "image": turned(self.images[image], rng.randrange(8))})
        return self.collate(rows, "pictures", seen=True)

    def collate(self, rows: list[dict[str, Any]], source: str, seen: bool = False) -> dict[str, Any]:
        """Encoded rows to a padded batch.

        Args:
            rows: of `encode`.
            source: `"denoise"`, `"pages"` or `"pictures"`.
            seen: with the pictures, where all rows have one.
        """
        batch: dict[str, Any] = {
            **self.processor.pad(rows),
            "labels": pad_lists([r["labels"] for r in rows], IGNORE_INDEX),
        }
        if seen and all(r["image"] is not None for r in rows):
            pixels = torch.from_numpy(np.stack([r["image"] for r in rows]))
            batch["pixel_values"] = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return {**batch, "source": source}


def real_pages(limit: int | None = None) -> list[Example]:
    """The training pages as the OCR engine reads them, with their pictures as arrays `[64, 64, 3]`.

    Args:
        limit: use only so many.
    """
    found = []
    for example in read_split("train", limit):
        picture: Any = example.image
        small = picture.convert("RGB").resize((SIDE, SIDE), resample=2)
        found.append(Example(example.question, example.answers, example.words, np.asarray(small), example.id))
    return found
