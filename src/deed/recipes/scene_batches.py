"""What the scenes recipe trains on: batch i of a run, from scenes of two things to scenes of up to five.

Captions are ten times as long as other answers, so a batch is either of captions or of boxes and short answers; pictures
of easy-vqa are in both kinds alike, so that the stem's batch norms see the same mixture in every batch.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from deed.constants import IGNORE_INDEX
from deed.data.synthetic import scenes
from deed.models.ofa import prompts
from deed.models.ofa.small import PICTURE
from deed.models.shared import pad_lists

from .easy_vqa import Pictures, Question, shape_questions, turned
from .recipe import Count, Natural, Rate, Recipe, Share, Width

ENDLESS = 10**12  # training examples there are to draw from
KINDS = ("refer", "caption", "vqa", "easyvqa", "region")
REGION = " what does the region describe? region:"
NEGATED = re.compile(r"\b(no|not)\b")


@dataclass(kw_only=True)
class ScenesRecipe(Recipe):
    """A training run on generated scenes and easy-vqa.

    Args:
        batch_size: pictures per step.
        learning_rate: peak of a linear warm-up and a cosine down to nothing.
        caption_share: share of captions of scenes; what is left to 1 by the four shares is easy-vqa.
        refer_share: share of referring expressions on scenes.
        vqa_share: share of questions about scenes.
        region_share: share of regions of scenes to be described.
        naming_share: of easy-vqa's questions, those that ask for a shape's name: a tenth of the data set's.
        stem_steps: steps of the stem's pretraining (`scene_stem.py`), after which it stays as it is; 0: none, and the stem
            learns with the rest.
        stem_learning_rate: peak learning rate of the stem's pretraining.
        grow_steps: steps over which scenes grow from two things to up to five; with `start` they have grown.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        d_model: width, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        stem_blocks: blocks of the stem's second and third stage each.
        vocab_size: pieces of the tokenizer.
        start: folder of a saved model to go on from, with a fresh optimizer and schedule; sizes are the model's own.
        workers: processes that make batches.
    """

    task: Literal["scenes"] = field(default="scenes", metadata={"help": argparse.SUPPRESS})
    steps: Count = 5000
    batch_size: Count = 32
    learning_rate: Rate = 1e-3
    warmup_steps: Natural = 200
    weight_decay: Rate = 0.02
    caption_share: Share = 0.2
    refer_share: Share = 0.4
    vqa_share: Share = 0.13
    region_share: Share = 0.13
    naming_share: Share = 0.3
    stem_steps: Natural = 1200
    stem_learning_rate: Rate = 3e-3
    grow_steps: Natural = 800
    encoder_layers: Count = 3
    decoder_layers: Count = field(default=8, metadata={"aliases": "--layers"})
    d_model: Width = 160
    d_ff: Count = 480
    stem_blocks: Count = 1
    vocab_size: Count = 1024
    start: str | None = field(default=None, metadata={"aliases": "--from"})
    bf16: bool = False
    save_every: Count = 250
    workers: Natural = 1


class SceneBatches(Dataset):
    """Item i is a whole batch: what `OFAForConditionalGeneration.forward` takes, and `kinds` `[batch]`, the place in `KINDS`.

    Args:
        recipe: shares, sizes and seed.
        processor: an `OFAProcessor`.
        pictures: of easy-vqa.
    """

    def __init__(self, recipe: ScenesRecipe, processor: Any, pictures: Pictures) -> None:
        self.recipe, self.processor, (self.images, self.questions) = recipe, processor, pictures
        self.naming = shape_questions(self.questions)
        self.others = balanced(self.questions)

    def __len__(self) -> int:
        return self.recipe.steps + 8  # a few more than are used, since Trainer fetches ahead

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}/scenes/{index}")
        whole = recipe.caption_share + recipe.refer_share + recipe.vqa_share + recipe.region_share
        short = {"refer": recipe.refer_share, "vqa": recipe.vqa_share, "region": recipe.region_share}
        captions = rng.random() < recipe.caption_share / whole
        rows = []
        for _ in range(recipe.batch_size):
            if rng.random() >= whole:
                rows.append(self.look(rng))
            elif captions:
                rows.append(self.scene("caption", rng, index))
            else:
                kind = rng.choices(list(short), list(short.values()))[0]
                rows.append(self.region(rng, index) if kind == "region" else self.scene(kind, rng, index))
        return collate(rows)

    def most_things(self, index: int) -> int:
        """Things that a scene of batch `index` may have: 2 at first, one more after each quarter of `grow_steps`."""
        grown = self.recipe.grow_steps == 0 or self.recipe.start is not None
        return 5 if grown else min(5, 2 + 4 * index // self.recipe.grow_steps)

    def scene(self, task: str, rng: random.Random, index: int) -> dict[str, Any]:
        """An encoded example on a fresh scene.

        Args:
            task: `"refer"`, `"caption"` or `"vqa"`.
            rng: where it is drawn from.
            index: of the batch.
        """
        source = scene_source(task, self.recipe.seed, self.most_things(index))
        example = source[rng.randrange(ENDLESS)]
        answer = example.answer
        if task == "refer":
            labels = [
                *self.processor.encode_box(example.box, example.image.size),
                self.processor.tokenizer.eos_token_id,
            ]
        else:
            answer = prompts.caption_target(answer) if task == "caption" else answer
            labels = self.processor.encode_answers([answer])[0]
        row = {"kind": KINDS.index(task), "input_ids": self.prompt(task, example.text), "labels": labels}
        return {**row, "image": np.asarray(example.image)}

    def region(self, rng: random.Random, index: int) -> dict[str, Any]:
        """An encoded example of OFA's grounded captioning: what is in a box? Where to look is given, so that reading what is
        there is learned long before expressions are understood."""
        source = scene_source("caption", self.recipe.seed, self.most_things(index))
        scene = source[rng.randrange(ENDLESS)].scene
        thing = rng.choice(scene.things)
        *text, end = self.processor.tokenizer(REGION).input_ids
        ids = [*text, *self.processor.encode_box(thing.box, scene.image.size), end]
        labels = self.processor.encode_answers([f"{thing.size} {thing.color} {thing.name}"])[0]
        kind = KINDS.index("region")
        return {"kind": kind, "input_ids": ids, "labels": labels, "image": np.asarray(scene.image)}

    def look(self, rng: random.Random) -> dict[str, Any]:
        """An encoded question on a picture of easy-vqa, turned one of eight ways."""
        question, answer, image = rng.choice(
            self.naming if rng.random() < self.recipe.naming_share else rng.choice(self.others)
        )
        labels = self.processor.encode_answers([answer])[0]
        drawn = enlarged(turned(self.images[image], rng.randrange(8)))
        kind = KINDS.index("easyvqa")
        return {"kind": kind, "input_ids": self.prompt("vqa", question), "labels": labels, "image": drawn}

    @functools.lru_cache(maxsize=20_000)  # noqa: B019
    def prompt(self, task: str, text: str) -> list[int]:
        """Ids of a task's whole prompt."""
        worded = prompts.CAPTION if task == "caption" else getattr(prompts, task)(text)
        return self.processor.tokenizer(worded).input_ids


def balanced(questions: list[Question]) -> list[list[Question]]:
    """Questions for a yes or no, those with a negation apart and of either answer: "is there not a red shape?" is "yes" four
    times of five, and a model that has learned this sees little reason to look. The others are a group of their own."""
    groups: dict[tuple[str, bool], list[Question]] = {}
    for question in questions:
        kind = question[1] if question[1] in ("yes", "no") else ""
        groups.setdefault((kind, bool(kind and NEGATED.search(question[0]))), []).append(question)
    return list(groups.values())


@functools.cache
def scene_source(task: str, seed: int, most: int) -> scenes.SceneExamples:
    """Training scenes.

    Args:
        task: `"refer"`, `"caption"` or `"vqa"`.
        seed: of the run.
        most: things in a scene, two at least.
    """
    return scenes.examples(task, "train", ENDLESS, seed, (2, most), side=PICTURE)


def enlarged(image: np.ndarray) -> np.ndarray:
    """An RGB picture at the model's side, as the processor does it."""
    return np.asarray(Image.fromarray(image).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC))


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Encoded rows to a padded batch."""
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    input_ids = pad_lists([row["input_ids"] for row in rows], 1)
    pixels = torch.from_numpy(np.stack([row["image"] for row in rows]))
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "patch_images": pixels.permute(0, 3, 1, 2).float() / 127.5 - 1,
        "labels": pad_lists([row["labels"] for row in rows], IGNORE_INDEX),
        "kinds": torch.tensor([row["kind"] for row in rows]),
    }
