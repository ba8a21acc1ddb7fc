"""The recipe of the shipped LaTr++: its batches, and that a resumed run is the unbroken one."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deed.data.base import Example
from deed.data.synthetic import pages
from deed.ocr.words import Word
from deed.recipes.easy_vqa import turned
from deed.recipes.page_batches import PageBatches, PagesRecipe
from deed.recipes.pages import start_pages, train_pages
from deed.tasks.answering import answer_rows
from deed.tasks.documents import DocumentTask
from deed.training.curriculum import LossGatedCurriculum

TINY = PagesRecipe(
    steps=6,
    batch_size=4,
    warmup_steps=1,
    denoise_steps=1,
    real_start=3,
    real_share=0.5,
    encoder_layers=1,
    decoder_layers=2,
    vision_layers=1,
    d_model=32,
    d_ff=32,
    bf16=False,
    save_every=2,
    log_every=2,
    workers=0,
)
READ = Example("what is the total?", ["$5"], [Word("Total", (10, 10, 60, 20))], np.zeros((64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def batches():
    recipe = replace(TINY, steps=40, denoise_steps=4, real_start=20, picture_share=0.3)
    _, processor = start_pages(recipe)
    pictures = (
        np.arange(2 * 64 * 64 * 3, dtype=np.uint8).reshape(2, 64, 64, 3),
        [("is it red?", "no", 0), ("what?", "no", 1)],
    )
    data = PageBatches(recipe, processor, LossGatedCurriculum(top=8).level, lambda: [READ], pictures)
    return data, processor


def test_stages_follow_each_other(batches):
    data, processor = batches
    made = [data[i] for i in range(40)]
    assert [b["source"] for b in made[:4]] == ["denoise"] * 4
    assert all("<extra_id_0>" in processor.tokenizer.decode(row) for b in made[:4] for row in b["input_ids"])
    assert {b["source"] for b in made[4:]} == {"pages", "pictures"}
    for b in made:
        if b["source"] == "pictures":
            assert (
                b["pixel_values"].shape == (8, 3, 64, 64)
                and -1 <= b["pixel_values"].min() <= b["pixel_values"].max() <= 1
            )
    read = [
        i
        for i, b in enumerate(made)
        if any(
            "Total $" not in t and "context: Total</s>" in t for t in processor.tokenizer.batch_decode(b["input_ids"])
        )
    ]
    assert read and min(read) >= 18, "pages that the engine read come late"


def test_a_batch_depends_on_seed_and_index_alone(batches):
    data, processor = batches
    first = data[30]
    data[7]
    again = data[30]
    other = PageBatches(data.recipe, processor, data.level, data.read, (data.images, data.questions))[30]
    for name in ("input_ids", "bbox", "labels"):
        assert torch.equal(first[name], again[name]) and torch.equal(first[name], other[name])


def test_pages_grow_with_the_level(batches):
    data, _ = batches
    lengths = []
    for level in (1, 4, 8):
        data.level.fill_(level)
        data.pooled = (None, [])
        lengths.append(np.mean([data[i]["input_ids"].shape[1] for i in range(4, 16) if data[i]["source"] == "pages"]))
    data.level.fill_(1)
    assert lengths[0] < lengths[1] < lengths[2]


def test_unseen_layouts_are_never_drawn(batches):
    assert set(batches[0].layouts) == set(pages.KNOWN) and not set(pages.KNOWN) & set(pages.UNSEEN)


def test_a_picture_turned_eight_ways():
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert len({turned(image, way).tobytes() for way in range(8)}) == 8


def test_a_run_writes_a_model_that_answers(tmp_path):
    result = train_pages(tmp_path, TINY, lambda: [READ], limit=3)
    assert result["steps"] == 6 and result["level"] == 1
    task = DocumentTask("pages")
    model, processor = task.load(tmp_path / "model")
    rows = [task.encode(processor, replace(READ, image=Image.fromarray(READ.image)))]
    found = answer_rows(task, model, processor, rows, exit_threshold=2.0, max_new_tokens=3)
    assert len(found.tokens) == 1 and found.mean_depth == 2.0
    log = [json.loads(line) for line in (tmp_path / "model" / "training_log.jsonl").read_text().splitlines()]
    assert all(row["level"] == 1 for row in log if "loss" in row)


@pytest.mark.parametrize("conventional", (False, True))
def test_a_resumed_run_is_the_unbroken_one(tmp_path, conventional):
    """With a ViT inside, whose tensors have other names on disk than in the model: all of them must come back."""
    recipe = replace(TINY, conventional=conventional)
    train_pages(tmp_path / "whole", recipe, lambda: [READ], limit=3)
    train_pages(tmp_path / "broken", recipe, lambda: [READ], limit=3)
    for late in ("checkpoint-6", "model"):
        folder = tmp_path / "broken" / late
        (tmp_path / "broken" / f"gone-{late}").parent.mkdir(exist_ok=True)
        folder.rename(tmp_path / f"gone-{late}")
    train_pages(tmp_path / "broken", recipe, lambda: [READ], limit=3)
    files = ["model.safetensors"] + ([] if conventional else ["deed_exits.safetensors"])
    for file in files:
        a, b = (load_file(tmp_path / name / "model" / file) for name in ("whole", "broken"))
        assert (a.keys() == b.keys() and any("vit" in k for k in a)) or "exits" in file
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize("conventional", (False, True))
def test_going_on_from_a_finished_model(tmp_path, conventional):
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = replace(TINY, conventional=conventional)
    train_pages(first, recipe, lambda: [READ], limit=3)
    LossGatedCurriculum(top=8).save(first / "model")
    state = json.loads((first / "model" / "curriculum.json").read_text())
    (first / "model" / "curriculum.json").write_text(json.dumps({**state, "level": 8, "risen": [[8, 5]]}))
    onward = replace(recipe, start=str(first / "model"), learning_rate=0.0, weight_decay=0.0)
    result = train_pages(second, onward, lambda: [READ], limit=3)
    assert result["level"] == 8 and result["risen"] == [(8, 5)]
    for file in ["model.safetensors"] + ([] if conventional else ["deed_exits.safetensors"]):
        a, b = (load_file(folder / "model" / file) for folder in (first, second))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), "it starts where the other ended"
    with pytest.raises(ValueError, match=r"is a (conventional|deed) model"):
        start_pages(replace(onward, conventional=not conventional))


def test_going_on_from_nothing(tmp_path):
    with pytest.raises(ValueError, match="is not a folder with a saved model"):
        start_pages(replace(TINY, start=str(tmp_path)))


def test_a_run_that_goes_on_has_its_first_stages_behind_it(batches):
    data, processor = batches
    recipe = replace(data.recipe, start="somewhere")
    onward = PageBatches(recipe, processor, data.level, data.read, (data.images, data.questions))
    assert (onward.denoise_steps, onward.real_start) == (0, 0) and onward[0]["source"] != "denoise"


def test_shape_names_are_asked_more_often(batches):
    data, processor = batches
    questions = [("is it red?", "no", 0)] * 30 + [("what shape?", "circle", 1)]
    named = PageBatches(data.recipe, processor, data.level, data.read, (data.images, questions))
    rng = random.Random(0)
    labels = [row for _ in range(20) for row in named.look(rng)["labels"].tolist()]
    circle = processor.encode_answer("circle")
    share = sum(row[: len(circle)] == circle for row in labels) / len(labels)
    assert 0.2 < share < 0.5
