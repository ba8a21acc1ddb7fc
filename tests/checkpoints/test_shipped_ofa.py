"""The shipped OFA on scenes that training never saw and on easy-vqa: what is promised of it holds."""

import json

import pytest
import torch

import oracle as ref
from deed.models.ofa import OFAForConditionalGeneration
from deed.tasks.answering import answer_rows, evaluate_task
from deed.tasks.pictures import PictureTask
from deed.utils.shipped import CHECKPOINTS
from test_decode import compare

OFA = CHECKPOINTS / "ofa"
COUNT = 150  # examples of each task
# Floors below what a thousand examples give (model card): some hundred waver. Captions: CIDEr-D, 0 to 10.
FLOORS = {
    "test": {"scenes-refer": 0.85, "scenes-caption": 5.6, "scenes-vqa": 0.5, "easyvqa": 0.97},
    "unseen": {"scenes-refer": 0.78, "scenes-caption": 5.4, "scenes-vqa": 0.5},
}


@pytest.fixture(scope="module")
def shipped():
    return PictureTask("scenes-refer").load(OFA)


def test_what_is_shipped():
    files = {p.name: p.stat().st_size for p in OFA.iterdir()}
    needed = {"README.md", "recipe.json", "training_log.jsonl", "deed_exits.safetensors", "tokenizer.json"}
    assert needed | {"processor_config.json"} <= set(files)
    assert sum(files.values()) < 15e6
    recipe = json.loads((OFA / "recipe.json").read_text())
    assert recipe["conventional"] is False and recipe["loss"] == "deed"


def test_it_is_loaded_in_single_precision(shipped):
    model, _ = shipped
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert OFAForConditionalGeneration.from_pretrained(OFA).dtype == torch.float32


@pytest.mark.parametrize("split", list(FLOORS))
def test_answers_on_scenes_never_seen(shipped, split):
    model, processor = shipped
    layers = len(model.deed_family.layers(model))
    for task, floor in ((PictureTask(name), floor) for name, floor in FLOORS[split].items()):
        examples = task.examples(split, COUNT)
        _, (full, early) = evaluate_task(task, model, processor, examples, (2.0, model.deed_config.threshold))
        assert full["mean_depth"] == layers
        assert full[task.metric] > floor, task.name
        assert (full[task.metric] - early[task.metric]) / task.best < 0.03, task.name
        assert early["mean_depth"] < {"caption": 0.5, "refer": 0.3}.get(task.asks, 1) * layers


def test_pictures_are_looked_at(shipped):
    model, processor = shipped
    task = PictureTask("scenes-refer")
    examples = [task.opened(example) for example in task.examples("test", COUNT)]
    rows = [task.encode(processor, example) for example in examples]
    for row in rows:
        row["patch_images"] = torch.zeros_like(row["patch_images"])
    found = answer_rows(task, model, processor, rows).tokens
    answers = [task.answer(processor, ids, e) for ids, e in zip(found, examples, strict=True)]
    assert sum(task.score(answers, examples)) / COUNT < 0.2


def test_the_threshold_is_calibrated(shipped):
    model, _ = shipped
    report = model.deed_config.calibration
    reports = [report, *report["others"]]
    assert {r["task"] for r in reports} == {"scenes-refer", "scenes-caption", "scenes-vqa", "easyvqa"}
    assert all(r["examples"] >= 900 and r["threshold"] <= model.deed_config.threshold <= 1 for r in reports)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
@pytest.mark.parametrize("task", ["scenes-refer", "scenes-caption"])
def test_trained_exits_equal_the_cache_free_reference(shipped, mode, task):
    model, processor = shipped
    task = PictureTask(task)
    inputs = task.collate(processor, [task.encode(processor, task.opened(e)) for e in task.examples("test", 6)])
    plain = OFAForConditionalGeneration.from_pretrained(OFA).eval()
    limits = {**mode, "max_new_tokens": 32}
    full = model.generate(**inputs, **limits, exit_threshold=1.5)
    assert torch.equal(full, plain.generate(**inputs, **limits))
    threshold = model.deed_config.threshold
    measure = model.deed_config.confidence
    assert measure["name"] == "ordered_prob"
    bins = ref.ordered(measure["first"], measure["count"], measure["within"])
    compare(model, inputs, threshold, bins, **limits)
