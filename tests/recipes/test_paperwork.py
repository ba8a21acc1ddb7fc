"""The paperwork recipe: what its pages are, how batches are packed and grow, and that a resumed run is the unbroken one."""

import gzip
import json
import random
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deed.constants import IGNORE_INDEX
from deed.data.base import UNANSWERABLE
from deed.data.debian.packages import split_of
from deed.data.debian.pages import DebianPage
from deed.data.debian.store import open_store
from deed.data.synthetic.forms import kept
from deed.errors import DataError
from deed.ocr.words import Word
from deed.recipes import paperwork
from deed.recipes.paperwork import CURVE, Sources, answer_losses, start_paperwork, train_paperwork
from deed.recipes.paperwork_batches import POOL, WINDOWS, PaperworkBatches, PaperworkRecipe
from deed.recipes.paperwork_pages import (
    AskedPage,
    blanked,
    by_line,
    choose,
    drawn_page,
    hundreds,
    page_of_kind,
    page_to_copy,
    pages_by_kind,
    readings,
    real_page,
    thumbnail,
)
from deed.tasks.answering import answer_rows
from deed.tasks.documents import DocumentTask

NAMES = ["afl++-doc", "bash-doc", "abinit-doc", "advi", "bird-doc", "biber", "autogen-doc", "brz-doc", "andi"]
TRAIN = [name for name in NAMES if split_of(name) == "train"]
OTHER = [f"p{i}" for i in range(99) if split_of(f"p{i}") == "validation"][:1]
FORM = {
    "kind": "card",
    "layout": "stacked/colon",
    "words": [
        ["Phone:", 10, 10, 60, 30],
        ["555", 70, 10, 99, 30],
        ["Web:", 10, 50, 60, 70],
        ["x.org", 70, 50, 130, 70],
    ],
    "asked": [["field", "what is the phone number?", "555"], ["unanswerable", "what is the date?", UNANSWERABLE]],
}


def some_page(package, number, words=60):
    rng = random.Random(f"{package}/{number}")
    texts = [f"{rng.choice('red green blue warm cold old new'.split())}{rng.randint(0, 99)}" for _ in range(words)]
    texts[:3] = ["The", "Tea", "Manual"]
    rows = [
        [text, 10 + 90 * (i % 10), 20 * (i // 10), 90 + 90 * (i % 10), 15 + 20 * (i // 10)]
        for i, text in enumerate(texts)
    ]
    sizes = [30.0] * 3 + [10.0] * (words - 3)
    return DebianPage(package, "1-a.pdf", number, 3, rows, sizes, [0] * 3 + [1 + i // 10 for i in range(words - 3)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder whose pages and forms are made already."""
    root = tmp_path_factory.mktemp("paperwork")
    for name in (*TRAIN, *OTHER):
        (root / "debian" / name).mkdir(parents=True)
        with gzip.open(root / "debian" / name / "pages.json.gz", "wt") as file:
            json.dump([asdict(some_page(name, number)) for number in (1, 2, 3)], file)
    for split in ("train", "validation"):
        with gzip.open(root / f"forms-{split}-00000.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(FORM) + "\n" for _ in range(3))
    return root


@pytest.fixture(scope="module")
def recipe(folder):
    return PaperworkRecipe(
        steps=6,
        batch_size=200,
        warmup_steps=1,
        decay_steps=2,
        questions=4,
        forms=3,
        pieces=500,
        max_length=120,
        encoder_layers=1,
        decoder_layers=2,
        vision_layers=1,
        d_model=32,
        d_ff=32,
        d_vision=32,
        bf16=False,
        copy_steps=0,
        validate_every=3,
        save_every=2,
        log_every=2,
        data=str(folder),
    )


@pytest.fixture(scope="module")
def sources(recipe):
    return Sources(recipe, limit=3, names=[*TRAIN, *OTHER])


@pytest.fixture(autouse=True)
def small_tokenizer(monkeypatch):
    monkeypatch.setattr(paperwork, "PIECES_FROM", 24)


@pytest.fixture
def batches(recipe, sources):
    _, processor = start_paperwork(recipe, sources)
    level = torch.ones(1, dtype=torch.long)
    return PaperworkBatches(
        replace(recipe, steps=60), processor, level, sources.store, sources.forms, sources.pictures
    )


def test_the_store_gives_the_pages_back(folder, sources):
    assert len(sources.store) == 3 * len(TRAIN)
    want = some_page(TRAIN[0], 1)
    got = next(p for p in map(sources.store.page, range(len(sources.store))) if p.package == TRAIN[0])
    assert asdict(got) == asdict(want)
    run = sources.store.page(0, 10, 20)
    assert run.number == 0, "a run from the middle has no title"
    assert run.words == sources.store.page(0).words[10:30] and run.lines == sources.store.page(0).lines[10:30]
    (folder / "broken.npz").write_bytes(b"no")
    with pytest.raises(DataError, match="is damaged"):
        open_store(folder / "broken.npz", folder, [])
    with pytest.raises(DataError, match="none of the packages"):
        open_store(folder / "none.npz", folder / "debian", ["nothing"])


def test_validation_pages_are_of_other_packages(sources):
    held = [page for page in sources.held_out() if page.source == "real"]
    assert len(held) == 40 and len(sources.pages_of("validation")) == 3
    assert {sources.pages_of("validation").page(i).package for i in range(3)} == set(OTHER)


def test_a_real_page_is_a_run_of_words_with_questions_it_answers(sources):
    rng = random.Random(0)
    for _ in range(30):
        page = real_page(sources.store, rng, 30, noise=0.0)
        text = " ".join(word.text for word in page.words)
        assert len(page.words) == 30
        for kind, question, answer in page.asked:
            if kind in ("title", "next word"):
                assert answer in text and (kind == "title") == (question == "what is the title?")


def test_pages_are_chosen_by_what_they_can_be_asked(sources):
    by_kind = pages_by_kind(sources.store)
    first = [i for i in range(len(sources.store)) if sources.store.page(i).number == 1]
    assert by_kind["title"] == first, "some_page's titles are on first pages"
    rng = random.Random(0)
    kinds = Counter()
    for _ in range(60):
        page = page_of_kind(sources.store, {"title": first, "heading": [0]}, rng, 20, 0.0)
        kinds.update({kind for kind, _, _ in page.asked})
        assert page.source == "real" and len(page.words) == 20
    assert kinds["title"] > 25, "half of the pages are first pages for their titles"


def test_some_pages_to_copy_from_are_tables(sources):
    rng = random.Random(0)
    pages = [page_to_copy(sources.store, rng, 40, tables=0.5) for _ in range(40)]
    tables = [page for page in pages if all(kind == "table" for kind, _, _ in page.asked)]
    assert 10 < len(tables) < 30 and {page.source for page in pages} == {"copy"}
    assert not any(kind == "table" for _ in range(20) for kind, _, _ in page_to_copy(sources.store, rng, 40).asked)


def test_readings_are_what_stands_after_a_pair_that_stands_once():
    rng, words = random.Random(0), [Word(text, (0, 0, 9, 9)) for text in "a b c a b d e f g h i j k l m".split()]
    for kind, question, answer in (asked for _ in range(20) for asked in readings(words, rng)):
        text, pair = " ".join(word.text for word in words), question.split('"')[1]
        assert kind == "reading" and f"{pair} {answer}" in text and pair != "a b" and len(answer.split()) <= 8
    assert readings(words[:3], rng)[0] == ("reading", "what does it say?", "a b c")
    assert readings(words[:1], rng) == []


def test_words_as_an_ocr_engine_orders_them():
    two_columns = [Word("a", (0, 10, 9, 20)), Word("c", (0, 40, 9, 50)), Word("b", (500, 12, 509, 22))]
    assert [word.text for word in by_line(two_columns)] == ["a", "b", "c"]


def test_questions_chosen_are_of_many_kinds():
    asked = [
        (kind, f"{kind} {i}", "x") for kind in ("next word", "presence", "unanswerable", "label") for i in range(9)
    ]
    rng = random.Random(0)
    counts = Counter(kind for _ in range(200) for kind, *_ in choose(asked, 8, rng))
    assert counts["label"] > 1300 and 50 < counts["unanswerable"] + counts["presence"] + counts["next word"] < 150
    few = choose([a for a in asked if a[0] != "label"], 8, rng)
    assert Counter(kind for kind, *_ in few) == {"next word": 2, "presence": 2, "unanswerable": 1}
    many = choose(asked, 8, rng, times=3)
    assert len(many) == 24 and Counter(kind for kind, *_ in many)["label"] in (8, 9), "a long page is asked more"


def test_long_pages_are_asked_more(batches, sources):
    assert [hundreds([None] * n) for n in (0, 1, 100, 101, 300)] == [1, 1, 1, 2, 3]
    rng = random.Random(0)
    rows = [batches.encode(page_to_copy(sources.store, rng, n), rng) for n in (40, 260)]
    assert len(rows[0]["questions"]) <= 4 < len(rows[1]["questions"]) <= 12


def test_a_thumbnail_is_darker_where_words_are():
    picture = thumbnail([Word("a", (0, 0, 500, 500)), Word("b", (900, 1000, 1000, 1000))])
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert picture[:31, :31].max() < picture[40:60, 40:60].min()


def test_a_batch_is_packed_pages_and_depends_on_seed_index_and_level_alone(batches, sources):
    made = [batches[i] for i in range(24)]
    again = PaperworkBatches(
        batches.recipe, batches.processor, batches.level, sources.store, sources.forms, sources.pictures
    )
    for i in (17, 3, 23):
        assert all(torch.equal(again[i][k], v) for k, v in made[i].items() if isinstance(v, torch.Tensor))
    assert {b["source"] for b in made} == {"pages", "pictures"}
    tokenizer = batches.processor.tokenizer
    for batch in made:
        assert len(batch["kinds"]) == len(batch["input_ids"])
        assert (batch["source"] == "pictures") <= ("pixel_values" in batch)
        for kinds, numbers, inputs, labels in zip(
            batch["kinds"], batch["answer_ids"], batch["decoder_input_ids"], batch["labels"], strict=True
        ):
            assert int(numbers.max()) == len(kinds) <= 4
            assert ((numbers > 0) == (labels != IGNORE_INDEX)).all()
            for k in range(1, len(kinds) + 1):
                at = numbers == k
                assert labels[at][-1] == tokenizer.eos_token_id
                assert inputs[at].tolist() == [tokenizer.pad_token_id, *labels[at][:-1].tolist()]


def test_pages_grow_with_the_level(batches):
    lengths = []
    batches.recipe = replace(batches.recipe, copy_share=0.0)  # which have up to 300 words, the real ones here 60
    for level in (1, 4, len(WINDOWS)):
        batches.level.fill_(level)
        batches.pooled = (None, [])
        made = [batches[i] for i in range(6 * POOL)]
        lengths.append(np.mean([b["bbox"].any(-1).sum(1).float().mean() for b in made if b["source"] == "pages"]))
    assert lengths[0] < lengths[1] < lengths[2]


def test_first_come_pages_to_copy_from_alone(batches):
    def sources(first, steps):
        made = [batches[i] for i in range(first, first + steps)]
        return {
            kind.partition("/")[0] for b in made if b["source"] == "pages" for kinds in b["kinds"] for kind in kinds
        }

    batches.recipe = replace(batches.recipe, copy_steps=2 * POOL)
    batches.level.fill_(4)
    assert sources(0, 2 * POOL) == {"copy"}
    assert sources(2 * POOL, 4 * POOL) == {"copy", "real", "form", "drawn"}
    batches.recipe, batches.pooled = replace(batches.recipe, copy_steps=0, copy_share=0.0), (None, [])
    assert "copy" not in sources(0, 4 * POOL)


def test_answers_are_learnt_among_what_stands_on_the_page(batches, sources, recipe):
    batches.level.fill_(5)
    items = [batches[i] for i in range(20)]
    masks = {item["source"]: item.get("allowed_tokens") for item in items}
    assert masks["pictures"] is None, "answers about pictures are free"
    item = next(item for item in items if item["source"] == "pages")
    keep = item["labels"] != IGNORE_INDEX
    allowed = item["allowed_tokens"][keep]
    assert allowed.gather(1, item["labels"][keep][:, None]).all() and 0.6 < float((~allowed).float().mean()) < 1
    kinds = {kind.partition("/")[2] for item in items for row in item["kinds"] for kind in row}
    assert "next word" in kinds, "pages are asked as before"
    plain = PaperworkBatches(
        replace(batches.recipe, conventional=True),
        batches.processor,
        batches.level,
        sources.store,
        sources.forms,
        sources.pictures,
    )
    assert "allowed_tokens" not in plain[0]


def test_pages_without_words_have_no_answer(batches, sources):
    page = real_page(sources.store, random.Random(0), 60)
    blank = blanked(page)
    assert not blank.words and [q for _, q, _ in blank.asked] == [q for _, q, _ in page.asked]
    answers = {
        kind: {a for (k, *_), (*_, a) in zip(page.asked, blank.asked, strict=True) if k == kind}
        for kind, *_ in page.asked
    }
    assert answers.pop("presence", {"no"}) == {"no"} and set().union(*answers.values()) == {UNANSWERABLE}
    batches.recipe = replace(batches.recipe, blank_share=1.0, copy_share=0.0, picture_share=0.0)
    batch = batches[0]
    assert not batch["bbox"].any() and all(kind.endswith("/blank") for row in batch["kinds"] for kind in row)
    assert batch["allowed_tokens"].all(), "where nothing stands, answers are spelled"


def test_what_takes_hundreds_of_pieces_is_not_asked(batches):
    long = "".join(chr(0x4E00 + i) for i in range(100))  # three pieces a letter
    words = [Word("a", (10, 10, 20, 20)), Word("b", (30, 10, 40, 20))]
    asked = [
        ("label", f'what comes after "{long}"?', "a"),
        ("label", 'what comes after "a"?', "b"),
        ("label", "b?", long),
    ]
    row = batches.encode(AskedPage("real", words, asked), random.Random(0))
    assert row["kinds"] == ["real/label"] and len(row["questions"][0]) < 30 and len(row["answers"][0]) < 5
    alone = batches.encode(AskedPage("real", words, asked[:1]), random.Random(0))
    assert len(alone["questions"]) == 1, "who was asked is asked something"
    assert batches.encode(AskedPage("real", words, []), random.Random(0))["questions"] == []


def test_every_page_drawn_is_in_one_batch_of_its_pool(batches):
    batches.level.fill_(4)
    pool = batches.draw(0)
    assert len(pool) == POOL and all(pool)
    spread = [max(row["length"] for row in batch) - min(row["length"] for row in batch) for batch in pool]
    lengths = [row["length"] for batch in pool for row in batch]
    assert np.mean(spread) < (max(lengths) - min(lengths)) / 2


def test_losses_of_packed_answers():
    logits = torch.randn(1, 4, 7)
    labels, numbers = torch.tensor([[3, 1, 2, IGNORE_INDEX]]), torch.tensor([[1, 1, 2, 0]])
    logs = -logits.log_softmax(-1)[0]
    found = list(answer_losses(logits, labels, numbers, [["a", "b"]]))
    assert [kind for kind, _ in found] == ["a", "b"]
    assert found[0][1] == pytest.approx(float(logs[0, 3] + logs[1, 1]), rel=1e-5)
    assert found[1][1] == pytest.approx(float(logs[2, 2]), rel=1e-5)


def test_a_run_writes_a_model_that_answers_and_a_learning_curve(tmp_path, recipe):
    result = train_paperwork(tmp_path, recipe, limit=3, names=[*TRAIN, *OTHER])
    assert result["steps"] == 6 and result["level"] == 1
    task = DocumentTask("pages")
    model, processor = task.load(tmp_path / "model")
    assert processor.question == model.config.question == "late"
    assert model.config.copy_answers and model.deed_config.confidence_over == "allowed"
    page = drawn_page(random.Random(0), 2)
    rows = [task.encode(processor, example) for example in _examples(page)]
    found = answer_rows(task, model, processor, rows, exit_threshold=2.0, max_new_tokens=3)
    assert len(found.tokens) == len(page.asked) and found.mean_depth == 2.0
    log = [json.loads(line) for line in (tmp_path / "model" / "training_log.jsonl").read_text().splitlines()]
    rows = [row for row in log if "loss" in row]
    assert all(row["level"] == 1 and row["questions"] > 0 for row in rows)
    assert any(name.startswith("answer_loss_real/") for row in rows for name in row)
    curve = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    assert [row["step"] for row in curve] == [3, 6] and all(len(row["by_exit"]) == 2 for row in curve)
    assert set(curve[0]["by_source"]) == {"real", "form", "drawn", "copy", "picture"}


def _examples(page: AskedPage):
    from deed.data.base import Example

    return [Example(question, [answer], list(page.words)) for _, question, answer in page.asked]


@pytest.mark.parametrize("conventional", (False, True))
def test_a_resumed_run_is_the_unbroken_one(tmp_path, recipe, conventional):
    optimizer = "adamw" if conventional else "muon"
    recipe = replace(recipe, conventional=conventional, bias_share=0.5, optimizer=optimizer)
    for name in ("whole", "broken"):
        train_paperwork(tmp_path / name, recipe, limit=3, names=[*TRAIN, *OTHER])
    for late in ("checkpoint-6", "model"):
        (tmp_path / "broken" / late).rename(tmp_path / f"gone-{late}")
    train_paperwork(tmp_path / "broken", recipe, limit=3, names=[*TRAIN, *OTHER])
    for file in ["model.safetensors"] + ([] if conventional else ["deed_exits.safetensors"]):
        a, b = (load_file(tmp_path / name / "model" / file) for name in ("whole", "broken"))
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-7, msg=key)


def test_kept_forms_are_drawn_once_and_stay_the_same(tmp_path, monkeypatch):
    pytest.importorskip("weasyprint")
    monkeypatch.setattr(kept, "SHARD", 2)
    first = list(kept.kept_forms(tmp_path, "train", 3))
    assert len(first) == 3 and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(kept, "make_form", None)
    assert list(kept.kept_forms(tmp_path, "train", 3)) == first
    for form in first:
        assert len({question for _, question, _ in form.asked}) == len(form.asked) > 2
        text = " ".join(word.text for word in form.all_words)
        assert all(" ".join(a.split()) in text for kind, _, a in form.asked if kind in ("field", "table"))


def test_pictures_are_asked_for_their_shapes(batches):
    pictures, seen = batches.pictures, 0
    for seed in range(20):
        page, everything = (pictures.page(random.Random(seed), count) for count in (2, None))
        assert len(page.asked) == 2 and set(page.asked) < set(everything.asked)
        assert (page.image == everything.image).all()
        shapes = {question for question in everything.asked if question[2] in ("circle", "rectangle", "triangle")}
        assert len(shapes & set(page.asked)) == min(2, len(shapes))
        seen += bool(shapes)
    assert seen, "a picture whose shape is asked for"
    items = [batches[i] for i in range(30)]
    of_pictures = [item for item in items if item["source"] == "pictures"]
    assert of_pictures and all(len(row) <= 4 for item in of_pictures for row in item["kinds"])
