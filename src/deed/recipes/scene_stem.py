"""Pretraining of the image stem for the scenes recipe: to classify what is at each patch of a picture.

OFA's stem starts from a ResNet that was trained on ImageNet. Ours has no such start, and from whole answers alone it learns
names and colors far too late: a question says little about a picture. Scenes know what is where, so every patch has labels:
name, color, size and edges of the thing there; easy-vqa's pictures have color and shape. The linear probes that predict
these are discarded.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torch.utils.data import DataLoader, Dataset

from deed.constants import IGNORE_INDEX
from deed.data.synthetic import scenes
from deed.models.ofa.small import PICTURE
from deed.models.ofa.stem import OFAStem
from deed.utils.files import atomic_write, read_json, write_json

from .easy_vqa import SHAPES, Pictures, turned
from .scene_batches import ScenesRecipe, enlarged, scene_source

PATCH = 16  # pixels
THERE, AWAY = 0.35, 0.1  # a thing is at a patch that it covers so much of; with less than the other nothing is there
SCENES, PICTURES = 32, 8  # in a batch; the latter are easy-vqa's
NAMES, COLORS, SIZES = list(scenes.NAMES), list(scenes.COLORS), ["small", "large"]


class StemBatches(Dataset):
    """Item i is a batch: `images` uint8 `[batch, side, side, 3]`, scenes first; `patches` `[scenes, h * w, 4]` long, whether
    a thing is there (1; 0: none; -100: in doubt), and the places of its name, color and size in their lists; `edges`
    `[scenes, h * w, 4]`, from the patch's center to the box's, in patches; `answer` `[PICTURES]` long, of easy-vqa."""

    def __init__(self, recipe: ScenesRecipe, pictures: Pictures) -> None:
        self.recipe, (self.images, questions) = recipe, pictures
        self.known = [(image, answer) for _, answer, image in questions if answer not in ("yes", "no")]
        self.answers = sorted({answer for _, answer in self.known})

    def __len__(self) -> int:
        return self.recipe.stem_steps

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.recipe.seed}/stem/{index}")
        source = scene_source("caption", self.recipe.seed, 5)
        found = [source[rng.randrange(len(source))].scene for _ in range(SCENES)]
        seen = [rng.choice(self.known) for _ in range(PICTURES)]
        images = [np.asarray(one.image) for one in found]
        images += [enlarged(turned(self.images[image], rng.randrange(8))) for image, _ in seen]
        labels = [patch_labels(one) for one in found]
        return {
            "images": torch.from_numpy(np.stack(images)),
            "patches": torch.stack([patches for patches, _ in labels]),
            "edges": torch.stack([edges for _, edges in labels]),
            "answer": torch.tensor([self.answers.index(answer) for _, answer in seen]),
        }


def patch_labels(scene: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What is at each patch of a scene, row by row: `[h * w, 4]` long and `[h * w, 4]`; see `StemBatches`."""
    side = scene.side // PATCH
    at = torch.arange(side) * PATCH
    covered = torch.zeros(side, side)
    labels = torch.zeros(side, side, 4, dtype=torch.long)
    edges = torch.zeros(side, side, 4)
    center = torch.stack([at[None].expand(side, -1), at[:, None].expand(-1, side)] * 2, dim=-1) + PATCH / 2
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        wide = (torch.clamp(at + PATCH, max=x1) - torch.clamp(at, min=x0)).clamp(min=0)
        high = (torch.clamp(at + PATCH, max=y1) - torch.clamp(at, min=y0)).clamp(min=0)
        share = high[:, None] * wide[None] / PATCH**2
        here = share > covered
        what = [1, NAMES.index(thing.name), COLORS.index(thing.color), SIZES.index(thing.size)]
        labels[here] = torch.tensor(what)
        edges[here] = ((torch.tensor(thing.box) - center) / PATCH)[here]
        covered = torch.maximum(covered, share)
    labels[..., 0][covered < THERE] = IGNORE_INDEX
    labels[..., 0][covered < AWAY] = 0
    return labels.flatten(0, 1), edges.flatten(0, 1)


def pretrained_stem(model: Any, output: Path, recipe: ScenesRecipe, pictures: Pictures) -> list[dict[str, float]]:
    """Give `model` a pretrained stem, frozen from then on, and return the log of its training. The stem in `output` is taken
    where there is one, so that a resumed run, or another one that the two files are copied to, has the same.

    Args:
        model: a small OFA, whose stem's weights are replaced.
        output: run folder, with `stem.safetensors` and `stem_log.json`.
        recipe: `stem_steps`, `stem_learning_rate`, `seed` and `workers`.
        pictures: of easy-vqa.
    """
    weights, log = output / "stem.safetensors", output / "stem_log.json"
    if not weights.is_file() or not log.is_file():
        config = copy.deepcopy(model.config)
        config.freeze_resnet = False
        stem, rows = OFAStem(config), []
        for row in pretrain_stem(stem, config.stem_widths[-1], recipe, pictures):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
        write_json(log, rows)
        kept = {k: v.contiguous() for k, v in stem.state_dict().items() if not k.endswith("num_batches_tracked")}
        with atomic_write(weights) as temporary:
            save_file(kept, temporary)
    own = model.get_encoder().embed_images
    own.load_state_dict(load_file(weights))
    own.requires_grad_(False)
    found: list[dict[str, float]] = read_json(log, ValueError, list)
    return found


def pretrain_stem(stem: nn.Module, width: int, recipe: ScenesRecipe, pictures: Pictures) -> Iterator[dict[str, float]]:
    """Train `stem` for `recipe.stem_steps` steps, in place; yields losses and accuracies over every hundred.

    Args:
        stem: from pictures `[batch, 3, side, side]` to features `[batch, width, side / 16, side / 16]`.
        width: of the stem's features.
        recipe: see `pretrained_stem`.
        pictures: of easy-vqa.
    """
    data = StemBatches(recipe, pictures)
    sizes = {
        "there": 2,
        "name": len(NAMES),
        "color": len(COLORS),
        "size": len(SIZES),
        "edges": 4,
        "picture": len(data.answers),
    }
    probes = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})
    optimizer = torch.optim.AdamW(
        [*stem.parameters(), *probes.parameters()], lr=recipe.stem_learning_rate, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.stem_learning_rate, total_steps=recipe.stem_steps, pct_start=0.1
    )
    shapes = torch.tensor([answer in SHAPES for answer in data.answers])
    loader = DataLoader(data, batch_size=None, num_workers=recipe.workers)
    stem.train()
    sums: dict[str, list[float]] = {}
    for step, batch in enumerate(loader, 1):
        losses, right = stem_losses(stem, probes, batch, shapes)
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule.step()
        for name, value in {**{f"stem_{k}_loss": v.detach() for k, v in losses.items()}, **right}.items():
            sums.setdefault(name, []).append(float(value))
        if step % 100 == 0 or step == recipe.stem_steps:
            yield {"stem_step": step, **{name: round(sum(v) / len(v), 4) for name, v in sums.items()}}
            sums.clear()


def stem_losses(
    stem: nn.Module, probes: nn.ModuleDict, batch: dict[str, torch.Tensor], shapes: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses by what is predicted, and accuracies.

    Args:
        stem: see `pretrain_stem`.
        probes: the linear layer for each label.
        batch: of `StemBatches`.
        shapes: bool `[answers]`, which answers of easy-vqa are shapes; the others are colors.
    """
    features = stem(batch["images"].permute(0, 3, 1, 2).float() / 127.5 - 1)
    count = len(batch["patches"])
    patches = features[:count].flatten(2).transpose(1, 2)
    losses, right = {}, {}
    there = batch["patches"][..., 0]
    losses["there"] = cross_entropy(probes["there"](patches).flatten(0, 1), there.flatten(), ignore_index=IGNORE_INDEX)
    there = there == 1
    for i, name in enumerate(("name", "color", "size"), 1):
        logits, labels = probes[name](patches[there]), batch["patches"][there][:, i]
        losses[name] = cross_entropy(logits, labels)
        right[f"stem_{name}_accuracy"] = (logits.argmax(-1) == labels).float().mean()
    losses["edges"] = smooth_l1_loss(probes["edges"](patches)[there], batch["edges"][there])
    logits = probes["picture"](features[count:].mean((2, 3)))
    same_kind = shapes[batch["answer"]][:, None] == shapes  # colors against colors, shapes against shapes
    logits = logits.masked_fill(~same_kind, -torch.inf)
    losses["picture"] = cross_entropy(logits, batch["answer"])
    right["stem_picture_accuracy"] = (logits.argmax(-1) == batch["answer"]).float().mean()
    assert features.shape[-1] == PICTURE // PATCH
    return losses, right
