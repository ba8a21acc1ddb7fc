"""Questions about generated pages, simulated OCR and the splits."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest

from deed.data.synthetic import pages
from deed.data.synthetic.pages import simulate, wording
from deed.errors import DataError
from deed.ocr.words import Word

ALL = [*pages.KNOWN, *pages.UNSEEN]


def bare(text: str) -> list[str]:
    """Words without the marks a sentence puts after them."""
    return [word.strip(".,") for word in text.split()]


def printed(answer: str, words: list[Word]) -> bool:
    """Whether an answer's words follow each other among OCR's."""
    wanted, read = bare(answer), [word.text.strip(".,") for word in words]
    return any(read[i : i + len(wanted)] == wanted for i in range(len(read)))


@pytest.mark.parametrize("layout", ALL)
def test_answers_are_printed_as_they_are_asked_for(layout):
    for n in (1, 2, 4, None):
        for seed in range(12):
            rng = random.Random(f"{n}/{seed}")
            page = pages.make_page(layout, rng, n)
            words = pages.ocr_words(page, rng, noise=0)
            asked = pages.ask(page, rng)
            assert len({question for question, _, _ in asked}) == len(asked)
            for question, (answer,), kind in asked:
                assert question == question.lower() and kind in ("short", "multi", "row", "all")
                for part in json.loads(answer).values() if kind == "all" else [answer]:
                    assert printed(part, words), (question, part)


@pytest.mark.parametrize("layout", ALL)
def test_all_fields_are_compact_json_in_canonical_order(layout):
    for n in (1, 2, 3, 6, None):
        page = pages.make_page(layout, random.Random(n), n)
        ((question, (answer,), kind),) = pages.ask(page, random.Random(0), "all")
        found = json.loads(answer)
        assert kind == "all" and question in wording.ALL_QUESTIONS
        assert list(found) == [key for key in pages.KEYS if key in found] == list(page.main)
        assert found.items() <= page.fields.items()
        assert answer == json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        assert len(found) in ((3, 4) if n is None else range(min(3, len(page.fields)), 5))


def test_which_fields_are_the_main_ones():
    assert pages.main_keys(["number", "date", "due", "total", "time"]) == ("number", "date", "due", "total")
    assert pages.main_keys(["number", "phone", "name", "city"]) == ("number", "phone", "name")
    assert pages.main_keys(["total"]) == ("total",)


def test_questions_differ_from_key_to_key():
    owners = Counter()
    for key, texts in wording.QUESTIONS.items():
        assert len(set(texts)) >= 3, key
        owners.update(set(texts))
    assert set(wording.QUESTIONS) == set(wording.LABELS) == set(pages.KEYS)
    assert max(owners.values()) == 1
    labels = Counter(label.lower() for texts in wording.LABELS.values() for label in set(texts))
    assert max(labels.values()) == 1  # no label stands for two keys


def test_table_questions():
    page = pages.make_page("price_table", random.Random(1))
    asked = pages.ask(page, random.Random(2), "row")
    assert len(asked) == 2 * len(page.rows) and {kind for _, _, kind in asked} == {"row"}
    for item, quantity, price in page.rows:
        about = {text: answers for text, answers, _ in asked if item in text}
        assert len(about) == 2
        for text, answers in about.items():
            counts = "how many" in text or "quantity" in text
            assert answers == [quantity if counts else price]


def test_vocabulary_has_every_word_that_is_not_a_value():
    vocabulary = pages.vocabulary_words()
    assert vocabulary == sorted(set(vocabulary)) and 300 <= len(vocabulary) <= 700
    known = set(vocabulary)
    for layout in ALL:
        for seed in range(25):
            rng = random.Random(seed)
            page = pages.make_page(layout, rng)
            values = sorted(
                [*page.fields.values(), *(cell for row in page.rows for cell in row)], key=len, reverse=True
            )
            for text in [
                *(t.text for t in page.texts),
                *(q.question for q in pages.ask(page, rng) if q.kind != "row"),
            ]:
                for value in values:  # longest first, as whole words
                    text = re.sub(rf"(?<!\S){re.escape(value)}(?![\w-])", " ", text)
                assert set(wording.pieces(text)) <= known, text
    assert not {"Visa", "Logistics", "Bergen"} & known


def test_words_lie_where_they_are_printed():
    for layout in ALL:
        page = pages.make_page(layout, random.Random(7))
        words = pages.ocr_words(page, random.Random(0), noise=0)
        assert words == pages.ocr_words(page, random.Random(1), noise=0)
        assert sorted(w.text for w in words) == sorted(w for t in page.texts for w in t.text.split())
        for text in page.texts:
            middle = 1000 * (text.y - 0.35 * text.size) / page.height
            first = text.text.split()[0]
            left = 1000 * text.x / page.width
            assert any(w.text == first and w.box[1] < middle < w.box[3] and abs(w.box[0] - left) < 6 for w in words)
        for word in words:
            x0, y0, x1, y1 = word.box
            assert 0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000


def test_order_is_by_lines_then_from_left_to_right():
    def at(top, left):
        return top, left, pages.Text(f"{top},{left}", left, top, "roboto", 20, 0)

    ordered = simulate.in_order([at(100, 500), at(104, 20), at(113, 300), at(200, 5), at(124, 1)])
    assert [item[:2] for item in ordered] == [(104, 20), (113, 300), (100, 500), (124, 1), (200, 5)]


def test_a_turned_page_is_read_in_the_order_its_tops_have():
    page = pages.Page("x", "Invoice", "Table", 800, 1000)
    page.texts = [pages.Text("left", 20, 300, "roboto", 20, 0), pages.Text("right", 700, 300, "roboto", 20, 0)]
    assert [w.text for w in simulate.words_of(page)] == ["left", "right"]
    assert [w.text for w in simulate.words_of(page, turn=1.2)] == ["left", "right"]
    assert [w.text for w in simulate.words_of(page, turn=-1.2)] == ["right", "left"]  # 14 px higher


def test_noise_is_rare():
    rng = random.Random(0)
    wrong = total = 0
    for i in range(300):
        page = pages.make_page(list(pages.KNOWN)[i % len(pages.KNOWN)], rng)
        exact = Counter(w.text for w in pages.ocr_words(page, rng, noise=0))
        noisy = pages.ocr_words(page, rng)
        assert all(0 <= w.box[0] <= w.box[2] <= 1000 and 0 <= w.box[1] <= w.box[3] <= 1000 and w.text for w in noisy)
        wrong += (exact - Counter(w.text for w in noisy)).total()
        total += exact.total()
    assert 0.005 < wrong / total < 0.02


@pytest.mark.parametrize(
    ("text", "possible"),
    [("O", {"0"}), ("corn", {"com", "eorn", "c0rn", "corr"}), ("S5", {"55", "SS"}), ("#", {"#"})],
)
def test_confusions(text, possible):
    assert {simulate._confused(text, random.Random(seed)) for seed in range(60)} == possible


def test_sketch_looks_like_the_shrunk_drawing():
    for layout in ("invoice_classic", "receipt_meal", "card"):
        page = pages.make_page(layout, random.Random(11))
        sketch = pages.sketch(page)
        assert sketch.shape == (64, 64, 3) and sketch.dtype == np.uint8
        drawn = np.asarray(pages.render(page, random.Random(0)).resize((64, 64)).convert("L"), float)
        assert np.corrcoef(sketch[:, :, 0].ravel(), drawn.ravel())[0, 1] > 0.75
        assert abs(sketch.mean() - drawn.mean()) < 8
    blank = pages.Page("x", "Invoice", "Table", 800, 1000)
    assert (pages.sketch(blank, 32) == simulate.PAPER).all()


def test_splits_are_fixed_and_share_no_page():
    assert pages.page_of("test", 17) == pages.page_of("test", 17)
    assert pages.image_of("test", 3).tobytes() == pages.image_of("test", 3).tobytes()
    shown = {split: {str(pages.page_of(split, i).texts) for i in range(n)} for split, n in pages.SPLITS.items()}
    assert sum(map(len, shown.values())) == len(set().union(*shown.values())) == sum(pages.SPLITS.values())
    assert {pages.page_of("unseen", i).layout for i in range(150)} == set(pages.UNSEEN)
    for split in ("train", "validation", "calibration", "test"):
        assert {pages.page_of(split, i).layout for i in range(pages.SPLITS[split])} == set(pages.KNOWN)
    for split, index in (("dev", 0), ("test", 150), ("test", -1)):
        with pytest.raises(DataError, match=r"pages are train \(0 to 399\)"):
            pages.page_of(split, index)


def test_values_of_test_pages_are_new():
    def long_values(split):
        return {
            value
            for i in range(pages.SPLITS[split])
            for key, value in pages.page_of(split, i).fields.items()
            if key not in ("method", "title", "department", "time", "place", "weight")
        }

    for split in ("test", "unseen"):
        values = long_values(split)
        assert len(values & long_values("train")) < 0.02 * len(values)


def test_examples_of_the_splits():
    words = [Word("x", (0, 0, 1, 1))]
    examples = [e for i in range(pages.SPLITS["calibration"]) for e in pages.examples_of("calibration", i, words)]
    assert len(examples) >= 1500
    assert len({e.id for e in examples}) == len(examples) and examples[0].id == "pages/calibration/0/0"
    kinds = Counter(e.kind for e in examples)
    assert kinds["all"] == pages.SPLITS["calibration"] and kinds["short"] > kinds["row"] > 50 < kinds["multi"]
    first = pages.examples_of("test", 5, words)
    assert first == pages.examples_of("test", 5, words)
    assert first[0].words is words and first[0].extra["fields"] == pages.page_of("test", 5).fields


def test_simulated_examples_mix_all_kinds():
    rng = random.Random(0)
    examples = [pages.simulated(rng) for _ in range(600)]
    share = {kind: n / 600 for kind, n in Counter(e.kind for e in examples).items()}
    assert 0.3 < share["short"] < 0.45 and 0.2 < share["multi"] < 0.35
    assert 0.05 < share["row"] < 0.2 and 0.2 < share["all"] < 0.35
    assert {e.extra["layout"] for e in examples} == set(pages.KNOWN)
    assert {len(pages.simulated(rng, 1, ["letter"]).extra["fields"]) for _ in range(5)} == {1}
