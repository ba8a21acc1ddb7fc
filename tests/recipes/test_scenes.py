"""The recipe of the small OFA: its batches, and that a resumed run is the unbroken one."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deed.constants import IGNORE_INDEX
from deed.data.synthetic import scenes
from deed.data.synthetic.scenes import examples
from deed.models.ofa import small as small_ofa
from deed.recipes import scene_batches
from deed.recipes.easy_vqa import load_pictures
from deed.recipes.scene_batches import KINDS, SceneBatches, ScenesRecipe, enlarged
from deed.recipes.scenes import start_scenes, train_scenes
from deed.tasks.answering import evaluate_task
from deed.tasks.loading import load_saved
from deed.tasks.task import tasks_of

TINY = ScenesRecipe(
    steps=6,
    batch_size=4,
    warmup_steps=1,
    grow_steps=4,
    stem_steps=0,
    encoder_layers=1,
    decoder_layers=2,
    d_model=32,
    d_ff=32,
    save_every=2,
    log_every=2,
    workers=0,
)
REFER, CAPTION, VQA, EASY, REGION = range(5)


@pytest.fixture(scope="module", autouse=True)
def few_texts():
    """The tokenizer's texts, fewer of them: what it learns is not what is tested here."""
    whole = scenes.vocabulary_texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "vocabulary_texts", lambda n: whole(50))
        yield


@pytest.fixture(scope="module")
def batches():
    recipe = replace(TINY, steps=60, grow_steps=40, batch_size=16)
    _, processor = start_scenes(recipe)
    pictures = (
        np.arange(2 * 64 * 64 * 3, dtype=np.uint8).reshape(2, 64, 64, 3),
        [("is there a circle?", "no", 0), ("what color is it?", "blue", 1)],
    )
    return SceneBatches(recipe, processor, pictures), processor


def test_captions_keep_to_themselves_and_easy_vqa_is_everywhere(batches):
    data, _ = batches
    made = [set(data[i]["kinds"].tolist()) for i in range(40)]
    assert set().union(*made) == set(range(len(KINDS)))
    for kinds in made:
        assert not (CAPTION in kinds and kinds & {REFER, VQA, REGION}), (
            "short answers would be padded to a caption's length"
        )
    long = [kinds for kinds in made if CAPTION in kinds]
    short = [kinds for kinds in made if CAPTION not in kinds]
    for part in (long, short):
        assert sum(EASY in kinds for kinds in part) > len(part) / 2


def test_a_batch_is_what_the_processor_would_make(batches, monkeypatch):
    data, processor = batches
    batch = next(
        b for b in map(data.__getitem__, range(20)) if VQA in b["kinds"].tolist() and b["labels"].shape[1] >= 5
    )
    assert batch["patch_images"].shape == (16, 3, 128, 128)
    assert -1 <= batch["patch_images"].min() < batch["patch_images"].max() <= 1
    assert torch.equal(batch["attention_mask"].bool(), batch["input_ids"] != processor.tokenizer.pad_token_id)
    example = examples("refer", "train", 5)[3]
    wanted = processor.refer(example.image, example.text, example.box)
    monkeypatch.setattr(scene_batches, "scene_source", lambda *_: [example])
    monkeypatch.setattr(scene_batches, "ENDLESS", 1)
    row = data.scene("refer", random.Random(), 59)
    assert row["input_ids"] == wanted["input_ids"][0].tolist() and row["labels"] == wanted["labels"][0].tolist()
    torch.testing.assert_close(
        torch.from_numpy(row["image"].copy()).permute(2, 0, 1).float() / 127.5 - 1, wanted["patch_images"][0]
    )


def test_easy_vqa_is_enlarged_as_the_processor_does(batches):
    _, processor = batches
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours = torch.from_numpy(enlarged(small).copy()).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(ours, processor.see([small])["patch_images"][0])


def test_yes_and_no_are_asked_alike_with_and_without_a_negation():
    many = [("is there a circle?", "no", 0)] * 50 + [("is there not a circle?", "yes", 0)] * 50
    rare = [
        ("is a circle present?", "yes", 0),
        ("is no red shape present?", "no", 0),
        ("what shape is it?", "circle", 0),
    ]
    recipe = replace(TINY, caption_share=0.0, refer_share=0.0, vqa_share=0.0, region_share=0.0)
    _, processor = start_scenes(recipe)
    data = SceneBatches(recipe, processor, (np.zeros((1, 64, 64, 3), dtype=np.uint8), many + rare))
    rng, asked = random.Random(0), []
    for _ in range(500):
        row = data.look(rng)
        negated = any(word in processor.decode(row["input_ids"]) for word in (" not ", " no "))
        asked.append((processor.decode(row["labels"], skip_special_tokens=True).strip(), negated))
    kinds = [("yes", False), ("yes", True), ("no", False), ("no", True)]
    shares = [asked.count(kind) / len(asked) for kind in kinds]
    assert max(shares) - min(shares) < 0.1 and min(shares) > 0.08
    assert sum(shares) < 0.95  # names are asked, too


def test_a_batch_depends_on_seed_and_index_alone(batches):
    data, processor = batches
    first = data[30]
    data[7]
    other = SceneBatches(data.recipe, processor, (data.images, data.questions))
    conventional = SceneBatches(replace(data.recipe, conventional=True), processor, (data.images, data.questions))
    for again in (data[30], other[30], conventional[30]):
        assert first.keys() == again.keys() and all(torch.equal(first[k], again[k]) for k in first)
    seeded = SceneBatches(replace(data.recipe, seed=1), processor, (data.images, data.questions))[30]
    assert not torch.equal(first["patch_images"], seeded["patch_images"])


def test_scenes_grow(batches):
    data, _ = batches
    assert [data.most_things(i) for i in (0, 9, 10, 20, 30, 59)] == [2, 2, 3, 4, 5, 5]
    data_at_once = SceneBatches(replace(data.recipe, grow_steps=0), data.processor, (data.images, data.questions))
    assert data_at_once.most_things(0) == 5
    going_on = SceneBatches(replace(data.recipe, start="model"), data.processor, (data.images, data.questions))
    assert going_on.most_things(0) == 5


def test_bins_are_a_pixel_off_at_most(batches):
    _, processor = batches
    for example in examples("refer", "validation", 20):
        ids = processor.encode_box(example.box, example.image.size)
        assert processor.boxes([ids], [example.image.size])[0] == pytest.approx(example.box, abs=1 + 1e-6)


def test_texts_are_few_tokens_and_fit(batches):
    _, processor = batches
    for task in ("caption", "vqa", "refer"):
        for example in examples(task, "validation", 30):
            assert processor.tokenizer.unk_token_id not in processor.tokenizer(f" {example.text}").input_ids
            assert len(processor.encode_answers([f" {example.answer}"], cut=False)[0]) <= small_ofa.MAX_ANSWER


@pytest.mark.parametrize("conventional", (False, True))
def test_a_resumed_run_is_the_unbroken_one(tmp_path, conventional):
    """Batch norms' statistics and the exits must come back too, and the batches go on where they were."""
    recipe = replace(TINY, conventional=conventional)
    result = train_scenes(tmp_path / "whole", recipe, limit=3)
    assert result["steps"] == 6
    train_scenes(tmp_path / "broken", recipe, limit=3)
    for late in ("checkpoint-6", "model"):
        (tmp_path / "broken" / late).rename(tmp_path / f"gone-{late}")
    train_scenes(tmp_path / "broken", recipe, limit=3)
    for file in ["model.safetensors"] + ([] if conventional else ["deed_exits.safetensors"]):
        a, b = (load_file(tmp_path / name / "model" / file) for name in ("whole", "broken"))
        assert a.keys() == b.keys() and ("exits" in file or any("running_mean" in k for k in a))
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-7, msg=key)
    log = [json.loads(line) for line in (tmp_path / "whole" / "model" / "training_log.jsonl").read_text().splitlines()]
    logged = [row for row in log if "loss" in row]
    assert len(logged) == 3 and {k for row in logged for k in row} >= {"refer_loss", "vqa_loss"}
    assert all(("exit_loss_1" in row) == (not conventional) for row in logged)

    model, processor = load_saved(tmp_path / "whole" / "model", plain=conventional)
    tasks = tasks_of(tmp_path / "whole" / "model")
    assert [task.name for task in tasks] == ["scenes-refer", "scenes-caption", "scenes-vqa", "easyvqa"]
    for task in tasks:
        count, [report] = evaluate_task(task, model, processor, task.examples("validation", 3))
        assert count == 3 and report[task.metric] >= 0
        assert report["mean_depth"] == (None if conventional else 2.0)


def test_losses_of_tasks_are_of_their_own_tokens(tmp_path):
    """One step, no learning: what is logged is the untrained model's loss, about log(vocabulary) for each task."""
    train_scenes(tmp_path, replace(TINY, steps=1, log_every=1, learning_rate=0.0, conventional=True), limit=3)
    first = json.loads((tmp_path / "model" / "training_log.jsonl").read_text().splitlines()[0])
    model, processor = load_saved(tmp_path / "model", plain=True)
    batch = SceneBatches(TINY, processor, load_pictures(3))[0]
    kinds = batch.pop("kinds")
    with torch.no_grad():
        logits = model.train()(**batch).logits
    each = torch.nn.functional.cross_entropy(logits.mT, batch["labels"], reduction="none")
    for at, kind in enumerate(KINDS):
        mine = (kinds == at)[:, None] & (batch["labels"] != IGNORE_INDEX)
        assert (f"{kind}_loss" in first) == bool(mine.any())
        if mine.any():
            assert first[f"{kind}_loss"] == pytest.approx(each[mine].mean().item(), abs=1e-3)


def test_going_on_from_a_finished_model(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train_scenes(first, replace(TINY, steps=2), limit=3)
    onward = replace(TINY, steps=2, start=str(first / "model"), learning_rate=0.0, weight_decay=0.0)
    train_scenes(second, onward, limit=3)
    a, b = (load_file(folder / "model" / "deed_exits.safetensors") for folder in (first, second))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), "it starts where the other ended"
    for folder in (first, second):
        config = json.loads((folder / "model" / "config.json").read_text())["deed_config"]
        assert config["confidence"]["name"] == "ordered_prob"
    with pytest.raises(ValueError, match="is a deed model"):
        start_scenes(replace(onward, conventional=True))
    with pytest.raises(ValueError, match="folder with a saved model"):
        start_scenes(replace(onward, start=str(tmp_path)))
    with pytest.raises(ValueError, match="another seed"):
        train_scenes(first, replace(TINY, steps=2, seed=5), limit=3)


def test_the_recipe_stays_within_what_is_shipped():
    tokenizer = small_ofa.build_tokenizer(["a red apple"] * 50, 800)
    model = small_ofa.build_model(tokenizer)
    weights = sum(p.numel() for p in model.parameters())
    assert 2 * weights < 12e6, "15 MB in half precision, exits and tokenizer beside"
