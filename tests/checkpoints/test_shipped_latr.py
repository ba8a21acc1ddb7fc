"""The shipped LaTr++ on pages that training never saw, read by the real OCR engine: what is promised of it holds."""

import json

import pytest
import torch

from deed.cli.demo import LATR_CHECKPOINT as LATR
from deed.data.synthetic.pages_read import read_pages
from deed.models.latr import LatrForConditionalGeneration
from deed.tasks.answering import answer_rows, score_answers
from deed.tasks.documents import DocumentTask
from test_decode import compare

PAGES_TASK, EASY_VQA = DocumentTask("pages"), DocumentTask("easyvqa")
PAGES = 12  # of each split: about 120 questions and 25 seconds of reading


@pytest.fixture(scope="module")
def shipped():
    return PAGES_TASK.load(LATR)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, shipped):
    """Questions of both splits, encoded: `{split: (examples, rows)}`."""
    _, processor = shipped
    found = {}
    for split in ("test", "unseen"):
        examples = [e for page, _ in read_pages(split, PAGES, cache=tmp_path_factory.mktemp("ocr")) for e in page]
        found[split] = examples, [PAGES_TASK.encode(processor, e) for e in examples]
    return found


def scores(task, processor, examples, found):
    answers = [task.answer(processor, ids, e) for ids, e in zip(found.tokens, examples, strict=True)]
    return score_answers(task, answers, examples)


def test_what_is_shipped():
    files = {p.name: p.stat().st_size for p in LATR.iterdir()}
    needed = {"README.md", "recipe.json", "training_log.jsonl", "deed_exits.safetensors", "tokenizer.json"}
    assert needed | {"processor_config.json"} <= set(files)
    assert sum(files.values()) < 20e6
    recipe = json.loads((LATR / "recipe.json").read_text())
    assert recipe["conventional"] is False and recipe["loss"] == "deed"


@pytest.mark.parametrize(("split", "least"), [("test", 0.72), ("unseen", 0.68)])
def test_answers_on_pages_never_seen(shipped, asked, split, least):
    """Floors below what all 150 pages give (README): a dozen pages waver."""
    model, processor = shipped
    examples, rows = asked[split]
    full = answer_rows(PAGES_TASK, model, processor, rows, exit_threshold=2.0)
    early = answer_rows(PAGES_TASK, model, processor, rows)  # its own, calibrated threshold
    full_score, early_score = (scores(PAGES_TASK, processor, examples, found)["anls"] for found in (full, early))
    depth, early_depth = full.mean_depth, early.mean_depth
    assert depth == len(model.deed_family.layers(model))
    assert full_score > least and early_score > full_score - 0.05
    assert early_depth < 0.5 * depth


def test_pictures_are_seen(shipped):
    model, processor = shipped
    examples = list(EASY_VQA.examples("test", 300))
    rows = [EASY_VQA.encode(processor, e) for e in examples]
    seen = scores(EASY_VQA, processor, examples, answer_rows(EASY_VQA, model, processor, rows))["exact_match"]
    assert seen > 0.78
    blind = [{k: v for k, v in row.items() if k != "pixel_values"} for row in rows]
    guessed = scores(EASY_VQA, processor, examples, answer_rows(EASY_VQA, model, processor, blind))
    assert guessed["exact_match"] < seen - 0.1, "not read off the question alone"


def test_the_threshold_is_calibrated(shipped):
    model, _ = shipped
    report = model.deed_config.calibration
    reports = [report, *report["others"]]
    assert {r["task"] for r in reports} == {"pages", "easyvqa"}
    assert all(r["examples"] >= 1500 and r["threshold"] <= model.deed_config.threshold <= 1 for r in reports)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
def test_trained_exits_equal_the_cache_free_reference(shipped, asked, mode):
    model, processor = shipped
    rows = [row for _, part in asked.values() for row in part[:4]]
    inputs = PAGES_TASK.collate(processor, rows)
    plain = LatrForConditionalGeneration.from_pretrained(LATR).eval()
    full = model.generate(**inputs, **mode, exit_threshold=1.5, max_new_tokens=40)
    assert torch.equal(full, plain.generate(**inputs, **mode, max_new_tokens=40))
    compare(model, inputs, model.deed_config.threshold, **mode, max_new_tokens=40)
