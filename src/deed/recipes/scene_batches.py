"""What the scenes recipe trains on: batch i of a run, from scenes of two things to scenes of up to five.

Captions are ten times as long as other answers, so a batch is either of captions or of boxes and short answers; pictures
of easy-vqa are in both kinds alike, so that the stem's batch norms see the same mixture in every batch.
"""

from __future__ import annotations

import functools
import random
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from deed.constants import IGNORE_INDEX
from deed.data.synthetic import scenes
from deed.models.ofa import prompts
from deed.models.ofa.small import PICTURE
from deed.models.shared import pad_lists

from .page_batches import SHAPES, turned

if TYPE_CHECKING:
    from .scenes import ScenesRecipe

ENDLESS = 10**12  # training examples there are to draw from
KINDS = ("refer", "caption", "vqa", "easyvqa", "region")
REGION = " what does the region describe? region:"
NEGATED = re.compile(r"\b(no|not)\b")


class SceneBatches(Dataset):
    """Item i is a whole batch: what `OFAForConditionalGeneration.forward` takes, and `kinds` `[batch]`, the place in `KINDS`.

    Args:
        pictures: `(images uint8 [n, 64, 64, 3], questions [(text, answer, image index)])` of easy-vqa.
    """

    def __init__(self, recipe: ScenesRecipe, processor: Any, pictures: tuple[Any, Any]) -> None:
        self.recipe, self.processor, (self.images, self.questions) = recipe, processor, pictures
        self.naming = [question for question in self.questions if question[1] in SHAPES] or self.questions
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
        """An encoded example on a fresh scene."""
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
        labels = self.processor.encode_answers([f"{thing.size} {thing.colour} {thing.name}"])[0]
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


def balanced(questions: list[tuple[str, str, int]]) -> list[list[tuple[str, str, int]]]:
    """Questions for a yes or no, those with a negation apart and of either answer: "is there not a red shape?" is "yes" four
    times of five, and a model that has learned this sees little reason to look. The others are a group of their own."""
    groups: dict[tuple[str, bool], list[tuple[str, str, int]]] = {}
    for question in questions:
        kind = question[1] if question[1] in ("yes", "no") else ""
        groups.setdefault((kind, bool(kind and NEGATED.search(question[0]))), []).append(question)
    return list(groups.values())


@functools.cache
def scene_source(task: str, seed: int, most: int) -> scenes.SceneExamples:
    """Training scenes of two to `most` things."""
    return scenes.examples(task, "train", ENDLESS, seed, (2, most), side=PICTURE)


def enlarged(image: np.ndarray) -> np.ndarray:
    """To the model's side, as the processor does."""
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
