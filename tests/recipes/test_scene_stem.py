"""The stem's pretraining: the patches' labels are what the scene says, and it learns; a resumed run has the same stem."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deed import DeedConfig, get_deed_model
from deed.constants import IGNORE_INDEX
from deed.data.synthetic import scenes
from deed.models.ofa import small as small_ofa
from deed.recipes import scene_stem
from deed.recipes.scene_batches import ScenesRecipe
from deed.recipes.scene_stem import COLORS, NAMES, SIZES, StemBatches, patch_labels, pretrain_stem, pretrained_stem
from deed.recipes.scenes import start_scenes

RECIPE = SimpleNamespace(seed=0, stem_steps=6, stem_learning_rate=3e-3, workers=0)


@pytest.fixture
def pictures():
    images = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    images[1] = 200
    return images, [
        ("what shape?", "circle", 0),
        ("what colour?", "red", 0),
        ("what colour?", "teal", 1),
        ("?", "yes", 1),
    ]


def test_labels_of_patches_are_what_the_scene_says():
    scene = scenes.scene("labels", (3, 3))
    labels, edges = patch_labels(scene)
    assert labels.shape == (64, 4) and edges.shape == (64, 4)
    grid, edges = labels.view(8, 8, 4), edges.view(8, 8, 4)
    for thing in scene.things:
        x, y = (int(c // 16) for c in thing.center)
        there, name, color, size = grid[y, x].tolist()
        if there == IGNORE_INDEX:  # a small thing may lie over the corner of four patches
            continue
        assert (there, NAMES[name], COLORS[color], SIZES[size]) == (1, thing.name, thing.color, thing.size)
        box = edges[y, x] * 16 + torch.tensor([16 * x + 8, 16 * y + 8] * 2)
        assert box.tolist() == pytest.approx(list(thing.box), abs=1e-4)
    for y, x in torch.nonzero(grid[..., 0] == 0).tolist():
        for x0, y0, x1, y1 in (thing.box for thing in scene.things):
            wide = max(0, min(x1, 16 * x + 16) - max(x0, 16 * x))
            high = max(0, min(y1, 16 * y + 16) - max(y0, 16 * y))
            assert wide * high < 0.1 * 256


def test_batches_hold_scenes_then_pictures(pictures):
    data = StemBatches(RECIPE, pictures)
    batch = data[3]
    assert batch["images"].shape == (40, 128, 128, 3) and batch["patches"].shape == (32, 64, 4)
    assert data.answers == ["circle", "red", "teal"] and batch["answer"].max() <= 2
    again = data[3]
    assert all(torch.equal(batch[name], again[name]) for name in batch)


class Stem(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 8, 16, stride=16)


def test_it_learns(pictures, monkeypatch):
    monkeypatch.setattr(scene_stem, "SCENES", 4)
    stem = Stem()
    rows = list(pretrain_stem(stem, 8, SimpleNamespace(**{**vars(RECIPE), "stem_steps": 200}), pictures))
    assert [row["stem_step"] for row in rows] == [100, 200]
    assert rows[1]["stem_color_accuracy"] > 0.4 > 1.5 / len(COLORS)
    assert rows[1]["stem_there_loss"] < rows[0]["stem_there_loss"]


def test_a_stem_is_pretrained_once_and_stays_as_it_is(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_stem, "SCENES", 2)
    tokenizer = small_ofa.build_tokenizer(["the red apple"] * 20, 340)

    def model():
        return small_ofa.build_model(tokenizer, 1, 1, 32, 32, stem=(8, 8, 8, 8), freeze_resnet=True)

    first, again = model(), model()
    rows = pretrained_stem(first, tmp_path, RECIPE, pictures)
    assert rows == json.loads((tmp_path / "stem_log.json").read_text()) and rows[-1]["stem_step"] == 6
    monkeypatch.setattr(scene_stem, "pretrain_stem", lambda *_: pytest.fail("pretrained again"))
    assert pretrained_stem(again, tmp_path, RECIPE, pictures) == rows
    stems = [m.get_encoder().embed_images for m in (first, again)]
    for name, value in stems[0].state_dict().items():
        assert torch.equal(value, stems[1].state_dict()[name]), name
    before = {name: value.clone() for name, value in stems[0].state_dict().items()}
    image = torch.rand(2, 3, 128, 128)
    first.train()
    stems[0](image)
    assert all(torch.equal(value, before[name]) for name, value in stems[0].state_dict().items())
    assert not any(p.requires_grad for p in stems[0].parameters())


def test_a_run_that_goes_on_keeps_the_stem_fixed(tmp_path):
    tokenizer = small_ofa.build_tokenizer(["the red apple"] * 20, 340)
    recipe = ScenesRecipe(start=str(tmp_path), encoder_layers=1, decoder_layers=2)
    for frozen in (True, False):
        model = small_ofa.build_model(tokenizer, 1, 2, 32, 32, stem=(8, 8, 8, 8), freeze_resnet=frozen)
        get_deed_model(model, DeedConfig()).save_pretrained(tmp_path)
        small_ofa.build_processor(tokenizer).save_pretrained(tmp_path)
        going_on, _ = start_scenes(recipe)
        assert {p.requires_grad for p in going_on.get_encoder().embed_images.parameters()} == {not frozen}
