"""What the paperwork recipe trains on: batch i of a run, pages with several questions each, growing with the curriculum."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from deed.data.base import UNANSWERABLE
from deed.data.debian.store import PageStore
from deed.data.debian.wording import reworded
from deed.models.latr.configuration_latr import LatrConfig
from deed.models.latr.packing import pack
from deed.models.latr.spans import FREE, allowed_labels, rules_of

from .paperwork_pages import (
    AskedPage,
    FormPicker,
    PicturePicker,
    blanked,
    choose,
    drawn_page,
    hundreds,
    page_of_kind,
    page_to_copy,
    readings,
    real_page,
    thumbnail,
)
from .recipe import Count, Loss, Natural, Rate, Recipe, Share, Width

# Words of a real page at each level; some 400 are what the model reads.
WINDOWS = (8, 14, 24, 40, 75, 130, 210, 300, 400)
WHOLE_FROM = 7  # level from which generated pages are whole ones
WHOLE = 0.4  # share of generated pages that are asked for all of their fields
OF_PICTURE = 4  # questions about a picture: many pictures teach more than many questions
LONGEST_QUESTION, LONGEST_ANSWER = 100, 250  # pieces
POOL = 6  # batches drawn at once and sorted by length, so that little of a batch is padding


@dataclass(kw_only=True)
class PaperworkRecipe(Recipe):
    """A training run on real pages, forms, generated pages and easy-vqa, several questions to a page.

    Args:
        batch_size: tokens per step and process, those of answers counted twice.
        optimizer: muon (matrices by Muon, the rest by AdamW) or adamw (all by AdamW).
        decay_steps: last steps, over which the learning rate falls to zero; until then it stays at its peak.
        questions: per page and hundred words of it, at most.
        picture_share: share of batches from easy-vqa.
        form_share: share of pages that are forms, of those that are not to copy from.
        drawn_share: share of pages of the generator of `--task pages`, likewise.
        copy_share: share of pages of strings that nobody can guess, whose questions take copying and nothing else.
        grid_share: share of those that are a table.
        copy_steps: first steps, in which all pages are to copy from and none is a table.
        kind_share: share of real pages chosen by what they can be asked, rare kinds nearly as often as common ones; the others
            are chosen by lot.
        copy_loss: answers are learnt as they are given, chosen from what stands on the page (`deed.models.latr.spans`); not in
            a conventional training.
        seen_share: share of page batches that have (a stand-in for) the pages' pictures.
        blank_share: share of pages whose words are taken away: a model whose answers stand on the page has to spell there that
            it finds none.
        noise: share of pages read as an OCR engine reads them.
        forms: how many forms are drawn and kept.
        curriculum_loss: running loss of the last exit at which pages grow.
        curriculum_steps: batches of pages after which they grow all the same.
        pieces: size of the tokenizer's vocabulary.
        max_length: tokens of page and question when the model is used.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        vision_layers: layers of the ViT.
        d_model: width, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        d_vision: width of the ViT, a multiple of 32.
        box_bias: bias attention by how boxes lie to each other.
        cell_bias: also by which words head the row and the column that a word stands in; a model to go on from gets it, too.
        bias_share: share of steps in which that bias learns; its gradient costs much and has few numbers to tell.
        validate_every: steps between rows of the learning curve.
        data: folder of the real pages and of what is made of them and kept.
        start: folder of a saved model to go on from, with a fresh optimizer and schedule, at the level it had reached.
        workers: processes that make batches.
    """

    task: Literal["paperwork"] = field(default="paperwork", metadata={"help": argparse.SUPPRESS})
    steps: Count = 16_500
    batch_size: Count = 2048
    learning_rate: Rate = 8e-4
    warmup_steps: Natural = 200
    decay_steps: Natural = 5000
    weight_decay: Rate = 0.02
    optimizer: Literal["adamw", "muon"] = "muon"
    loss: Loss = "rising"
    questions: Count = 8
    picture_share: Share = 0.15
    form_share: Share = 0.35
    drawn_share: Share = 0.35
    copy_share: Share = 0.14
    grid_share: Share = 0.4
    copy_steps: Natural = 1200
    kind_share: Share = 0.6
    copy_loss: bool = True
    seen_share: Share = 0.1
    blank_share: Share = 0.01
    noise: Share = 0.4
    forms: Count = 6000
    curriculum_loss: Rate = 0.5
    curriculum_steps: Count = 700
    pieces: Count = 4096
    max_length: Count = 800
    encoder_layers: Count = 3
    decoder_layers: Count = field(default=6, metadata={"aliases": "--layers"})
    vision_layers: Count = 2
    d_model: Width = 160
    d_ff: Count = 640
    d_vision: Width = 128
    box_bias: bool = True
    cell_bias: bool = True
    bias_share: Share = 0.25
    validate_every: Count = 500
    data: str = "paperwork"
    start: str | None = field(default=None, metadata={"aliases": "--from"})
    save_every: Count = 300
    workers: Natural = 0


def rules_for(processor: Any) -> LatrConfig:
    """By which answers are kept to the page, with the ids of the processor's tokenizer.

    Args:
        processor: a `LatrProcessor`.
    """
    tokenizer = processor.tokenizer
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LatrConfig(vocab_size=len(tokenizer), question="late", **ids, **rules_of(processor, (*FREE, UNANSWERABLE)))


class PaperworkBatches(Dataset):
    """Item i is a whole batch, encoded: `{"input_ids", …, "source", "kinds"}`.

    Args:
        recipe: shares, sizes and seed.
        processor: a `LatrProcessor` with a late question.
        level: shared tensor of the curriculum.
        store: real pages.
        forms: forms to choose from.
        pictures: of easy-vqa.
        by_kind: real pages by what they can be asked (`pages_by_kind`); None: all are chosen by lot.
    """

    def __init__(
        self,
        recipe: PaperworkRecipe,
        processor: Any,
        level: torch.Tensor,
        store: PageStore,
        forms: FormPicker,
        pictures: PicturePicker,
        by_kind: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.recipe, self.processor, self.level = recipe, processor, level
        self.store, self.forms, self.pictures = store, forms, pictures
        self.by_kind = by_kind
        self.rules = rules_for(processor) if recipe.copy_loss and not recipe.conventional else None
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.pooled: tuple[Any, list[list[dict[str, Any]]]] = (None, [])

    def __len__(self) -> int:
        return (self.recipe.steps + 2 * POOL) * self.processes  # a few more than are used: Trainer fetches ahead

    def __getitem__(self, index: int) -> dict[str, Any]:
        recipe = self.recipe
        step, process = divmod(index, self.processes)
        kind = random.Random(f"{recipe.seed}/kind/{step}")
        if kind.random() < recipe.picture_share:
            rng = random.Random(f"{recipe.seed}/batch/{index}")
            patches = (64 // 8) ** 2 + 1
            pages = [
                self.encode(self.pictures.page(rng, OF_PICTURE), rng)
                for _ in range(max(1, recipe.batch_size // (patches + 8 * min(OF_PICTURE, recipe.questions))))
            ]
            return self.collate(pages, "pictures", seen=True)
        pool, at = divmod(step, POOL)
        if self.pooled[0] != (pool, process):
            self.pooled = ((pool, process), self.draw(pool, process))
        return self.collate(self.pooled[1][at], "pages", seen=kind.random() < recipe.seen_share)

    def draw(self, pool: int, process: int = 0) -> list[list[dict[str, Any]]]:
        """`POOL` batches of pages at the present level, like lengths together."""
        rng = random.Random(f"{self.recipe.seed}/pool/{pool}/{process}")
        rows: list[dict[str, Any]] = []
        tokens = 0
        while tokens < POOL * self.recipe.batch_size or len(rows) < POOL:
            rows.append(self.encode(self.page(rng, copying=pool * POOL < self.recipe.copy_steps), rng))
            tokens += rows[-1]["length"]
        rows.sort(key=lambda row: row["length"])
        batches: list[list[dict[str, Any]]] = [[] for _ in range(POOL)]
        done = 0
        for left, row in zip(range(len(rows), 0, -1), rows, strict=True):
            # By tokens, but none may stay empty.
            at = max(done * POOL // tokens, POOL - left) if left <= POOL else done * POOL // tokens
            batches[min(at, POOL - 1)].append(row)
            done += row["length"]
        batches = [batch or [rows[0]] for batch in batches]
        random.Random(f"{self.recipe.seed}/order/{pool}").shuffle(batches)
        return batches

    def page(self, rng: random.Random, level: int | None = None, copying: bool = False) -> AskedPage:
        """A page of the mix.

        Args:
            rng: where it is drawn from.
            level: of the curriculum; None: the present one.
            copying: one to copy from.
        """
        recipe, now = self.recipe, int(self.level) if level is None else level
        blank = rng.random() < recipe.blank_share
        # Some shorter ones stay in, so that nothing learned is lost.
        level = now if rng.random() < 0.6 else rng.randint(1, now)
        longest = rng.randint(WINDOWS[level - 2] if level > 1 else 4, WINDOWS[level - 1])
        if copying or rng.random() < recipe.copy_share:
            share = recipe.grid_share * (not copying)
            return page_to_copy(self.store, rng, longest, recipe.noise * (not copying), share)
        sort = rng.random()
        # Forms are no runs of words: the shortest have twenty.
        if sort < recipe.form_share and longest >= WINDOWS[1]:
            page = self.forms.page(rng, longest, recipe.noise)
        elif sort < recipe.form_share + recipe.drawn_share:
            page = drawn_page(rng, None if level >= WHOLE_FROM else level)
        elif self.by_kind and rng.random() < recipe.kind_share:
            page = page_of_kind(self.store, self.by_kind, rng, longest, recipe.noise)
        else:
            page = real_page(self.store, rng, longest, recipe.noise, absent=True)
        # Its answer is longer than all the others together.
        asked = [question for question in page.asked if question[0] != "all" or rng.random() < WHOLE]
        # Where spelling need not be learnt, they tell nothing: how many words such an answer has cannot be known.
        more = readings(page.words, rng, hundreds(page.words)) if self.rules is None else []
        page = replace(page, asked=[*asked, *more])
        return blanked(page) if blank else page

    def encode(self, page: AskedPage, rng: random.Random) -> dict[str, Any]:
        """Ids of a page and of the questions chosen."""
        processor, chosen = self.processor, choose(page.asked, self.recipe.questions, rng, hundreds(page.words))
        words, boxes = processor.encode_page(page.words, processor.max_length)
        rows = [
            (kind, processor.encode_question(reworded(question, rng)), processor.encode_answer(answer))
            for kind, question, answer in chosen
        ]
        # "Words" of some pages are a hundred letters of three pieces each: their questions took 18 GB.
        some = [row for row in rows if len(row[1]) <= LONGEST_QUESTION and len(row[2]) <= LONGEST_ANSWER] or rows[:1]
        kinds, questions, answers = ([row[i] for row in some] for i in range(3))
        return {
            "words": words,
            "boxes": boxes,
            "questions": questions,
            "answers": answers,
            "kinds": [f"{page.source}/{kind}" for kind in kinds],
            "page": page,
            # An answer's token passes more layers than a page's.
            "length": len(words) + sum(map(len, questions)) + 2 * sum(map(len, answers)),
        }

    def collate(self, rows: Sequence[dict[str, Any]], source: str, seen: bool = False) -> dict[str, Any]:
        """Encoded pages to a padded batch.

        Args:
            rows: of `encode`.
            source: `"pages"` or `"pictures"`.
            seen: with pictures.
        """
        pad = self.processor.tokenizer.pad_token_id
        batch: dict[str, Any] = pack(rows, pad, pad)
        if self.rules is not None and source != "pictures":
            pages, answers = [row["words"] for row in rows], [row["answers"] for row in rows]
            batch["allowed_tokens"] = allowed_labels(self.rules, pages, answers, self.rules.vocab_size)
        if seen:
            pictures = [thumbnail(r["page"].words) if r["page"].image is None else r["page"].image for r in rows]
            pixels = torch.from_numpy(np.stack(pictures))
            batch["pixel_values"] = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return {**batch, "source": source, "kinds": [row["kinds"] for row in rows]}


__all__ = ["POOL", "WINDOWS", "PaperworkBatches", "PaperworkRecipe"]
