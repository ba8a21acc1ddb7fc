"""The LaTr++ shipped for PDFs' own text and long pages: it knows forms in layouts that no training saw, decoded exactly."""

import json
import random
import re
from dataclasses import replace

import pytest
import torch

from deed.data.synthetic.forms import make_form
from deed.models.latr import LatrForConditionalGeneration
from deed.models.latr.spans import allowed_pieces, page_ids
from deed.tasks.answering import answer_rows, score_answers
from deed.tasks.documents import DocumentTask
from deed.tasks.page_reading import SHORT, suited
from deed.utils.shipped import shipped as folder_of
from test_decode import compare

TASK = DocumentTask("pages")
PAPERWORK = folder_of("paperwork")
FORMS = 15


@pytest.fixture(scope="module")
def shipped():
    return TASK.load(PAPERWORK)


@pytest.fixture(scope="module")
def asked(shipped):
    """Questions about held-out forms, by the words of their layout, with the encoded rows."""
    pytest.importorskip("weasyprint")
    found = []
    for index in range(FORMS):
        form = make_form(random.Random(f"forms/unseen/{index}"), unseen=True)
        found += [replace(e, image=None) for e in form.examples(random.Random(index))[:6]]
    return found, [TASK.encode(shipped[1], example) for example in found]


def test_what_is_shipped():
    files = {p.name: p.stat().st_size for p in PAPERWORK.iterdir()}
    needed = {"README.md", "recipe.json", "training_log.jsonl", "learning_curve.jsonl", "deed_exits.safetensors"}
    assert needed | {"tokenizer.json", "processor_config.json"} <= set(files)
    assert sum(files.values()) < 15e6
    recipe = json.loads((PAPERWORK / "recipe.json").read_text())
    assert recipe["task"] == "paperwork" and recipe["conventional"] is False


def test_answers_on_forms_never_seen(shipped, asked):
    """A floor below what all held-out forms give (its card)."""
    model, processor = shipped
    examples, rows = asked
    scores = {}
    for name, options in (("full", {"exit_threshold": 2.0}), ("early", {})):
        found = answer_rows(TASK, model, processor, rows, **options)
        answers = [TASK.answer(processor, ids, e) for ids, e in zip(found.tokens, examples, strict=True)]
        scores[name] = score_answers(TASK, answers, examples)["anls"], found.mean_depth
    assert scores["full"][0] > 0.85 and scores["early"][0] > scores["full"][0] - 0.05
    assert scores["early"][1] < 0.5 * scores["full"][1]


def test_answers_stand_on_the_page(shipped, asked):
    model, processor = shipped
    examples, rows = asked
    found = answer_rows(TASK, model, processor, rows[:30])
    for example, ids in zip(examples, found.tokens, strict=False):
        answer = TASK.answer(processor, ids, example)
        page = re.sub(r"\s", "", "".join(word[0] for word in example.words))
        assert answer in ("yes", "no", "not on the page") or re.sub(r"\s", "", answer) in page or answer[:1] == "{"


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}], ids=["greedy", "beam"])
def test_trained_exits_equal_the_cache_free_reference(shipped, asked, mode):
    model, processor = shipped
    inputs = TASK.collate(processor, asked[1][:6])
    plain = LatrForConditionalGeneration.from_pretrained(PAPERWORK).eval()
    full = model.generate(**inputs, **mode, exit_threshold=1.5, max_new_tokens=16)
    assert torch.equal(full, plain.generate(**inputs, **mode, max_new_tokens=16))
    assert model.deed_config.confidence_over == "allowed"
    pages = page_ids(inputs["input_ids"], inputs["bbox"])
    may, beams = allowed_pieces(model.config, pages, 1), mode.get("num_beams", 1)

    def allowed(ids):
        mask = torch.zeros(len(ids), model.config.vocab_size, dtype=torch.bool)
        for row, prefix in enumerate(ids):
            mask[row, may(row // beams, prefix)] = True
        return mask

    compare(model, inputs, model.deed_config.threshold, allowed=allowed, **mode, max_new_tokens=16)


def test_which_model_reads_a_page():
    def seen(words, ms):
        return {"words": [("a", (0, 0, 1, 1))] * words, "ocr": {"ms": ms}}

    assert suited(None) == suited(seen(3, None)) == suited(seen(SHORT + 1, 20.0)) == "paperwork"
    assert suited(seen(SHORT, 20.0)) == suited({"words": [], "ocr": None}) == "documents"


def test_it_is_found_by_name(tmp_path, monkeypatch):
    import deed
    from deed.cli.ask_document import SAMPLE
    from deed.cli.serve import named

    monkeypatch.chdir(tmp_path)
    assert named("paperwork") == ("paperwork", str(PAPERWORK))
    ask = deed.pipeline("document-qa", "paperwork")
    assert ask(SAMPLE, question="what is the total?")["answer"] == "$125.16"
    assert len(ask.model.deed_config.exit_layers) == 6
