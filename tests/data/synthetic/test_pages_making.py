"""Values, layouts and drawing of generated pages."""

import random
from collections import Counter

import numpy as np
import pytest

from deed.data.synthetic import pages
from deed.data.synthetic.pages import fonts, values
from deed.errors import DataError

ALL = [*pages.KNOWN, *pages.UNSEEN]


def ink(text: pages.Text) -> tuple[float, float, float, float]:
    """The box that a text's ink stays in, nearly."""
    wide = fonts.text_width(text.text, text.font, text.size)
    return text.x, text.y - 0.75 * text.size, text.x + wide, text.y + 0.22 * text.size


@pytest.mark.parametrize("key", pages.KEYS)
def test_values_are_short_printable_and_mostly_new(key):
    drawn = [pages.value(key, random.Random(f"{key}{i}")) for i in range(400)]
    assert drawn == [pages.value(key, random.Random(f"{key}{i}")) for i in range(400)]
    assert all(text == " ".join(text.split()) and text for text in drawn)
    assert set("".join(drawn)) <= {*map(chr, range(32, 127)), "€", "£"} - {'"', "\\"}
    limit = {"number": 9, "date": 12, "due": 12, "birth": 12, "account": 16}.get(key, 24)
    assert max(map(len, drawn)) <= limit
    listed = {"method", "title", "department", "time", "place", "weight"}  # from a few hundred
    assert len(set(drawn)) > (20 if key in listed else 330)


def test_values_of_one_page_belong_together():
    for seed in range(200):
        keys = ["date", "due", "total", "tax", "subtotal", "name", "clerk"]
        drawn, rows = values.draw(keys, 3, False, random.Random(seed))
        assert len(set(drawn.values())) == len(keys)
        cents = {
            key: round(float(drawn[key].strip("$€£").replace(",", "")) * 100) for key in ("total", "tax", "subtotal")
        }
        assert cents["total"] == cents["tax"] + cents["subtotal"]
        assert cents["subtotal"] == sum(round(float(row[2].strip("$€£").replace(",", "")) * 100) for row in rows)
        assert len({item for item, _, _ in rows}) == 3
    with pytest.raises(DataError, match="key must be one of number"):
        pages.value("colour", random.Random(0))


def test_no_value_is_drawn_twice_on_a_page(monkeypatch):
    for key in ("name", "clerk"):
        monkeypatch.setitem(values._FREE, key, lambda rng: rng.choice(["Ann Lee", "Bo Fox"]))
    for seed in range(10):
        drawn, _ = values.draw(["clerk", "name"], 0, False, random.Random(seed))
        assert sorted(drawn.values()) == ["Ann Lee", "Bo Fox"]


def test_due_dates_follow_dates():
    assert values.print_date(values._later((2024, 12, 20), 30), 2) == "2025-01-22"
    assert [values.print_date((2024, 3, 5), form) for form in range(6)] == [
        *("5 Mar 2024", "05/03/2024", "2024-03-05", "05.03.2024", "Mar 5, 2024", "05-03-24")
    ]


def test_money_is_printed_in_each_style():
    assert values.print_money(122880, (0, 0, True)) == "$1,228.80"
    assert values.print_money(122805, (2, 0, False)) == "£1228.05"
    assert values.print_money(7, (1, 1, True)) == "0.07"


@pytest.mark.parametrize("layout", ALL)
def test_layouts_print_just_the_fields_asked_for(layout):
    spec = (pages.KNOWN | pages.UNSEEN)[layout]
    assert {*spec.always, *spec.often} <= set(pages.KEYS) and len({*spec.always, *spec.often}) == len(
        spec.always + spec.often
    )
    for n in range(1, 9):
        for seed in range(5):
            page = pages.make_page(layout, random.Random(f"{n}/{seed}"), n)
            assert len(page.fields) + bool(page.rows) == n
            printed = " ".join(text.text for text in page.texts)
            assert all(value in printed for value in page.fields.values())
            assert len(printed.split()) < 8 * n + 12
    for seed in range(20):
        page = pages.make_page(layout, random.Random(seed))
        assert len(page.fields) == len(spec.always) + spec.more
        assert spec.rows[0] <= len(page.rows) <= spec.rows[1]


@pytest.mark.parametrize("layout", ALL)
def test_texts_stay_on_the_paper_and_off_each_other(layout):
    for n in (1, 3, None):
        for seed in range(25):
            page = pages.make_page(layout, random.Random(f"{n}/{seed}"), n)
            boxes = [ink(text) for text in page.texts]
            for i, (x0, y0, x1, y1) in enumerate(boxes):
                assert x0 >= 8 and x1 <= page.width - 7 and y0 >= 8 and y1 <= page.height - 6, page.texts[i]
                for u0, v0, u1, v1 in boxes[:i]:
                    assert x1 < u0 or u1 < x0 or y1 < v0 or v1 < y0, (page.texts[i], seed)


def test_layouts_are_many_and_the_unseen_ones_are_others():
    assert len(pages.KNOWN) >= 10 and len(pages.UNSEEN) == 4
    assert not set(pages.KNOWN) & set(pages.UNSEEN)
    assert not {spec.draw for spec in pages.KNOWN.values()} & {spec.draw for spec in pages.UNSEEN.values()}
    used = Counter(key for spec in pages.KNOWN.values() for key in (*spec.always, *spec.often))
    assert set(used) == set(pages.KEYS)  # every key is trained on
    with pytest.raises(DataError, match="layout must be one of invoice_classic"):
        pages.make_page("poem", random.Random(0))


def test_whole_pages_are_as_long_as_documents():
    counts = [sum(len(t.text.split()) for t in pages.page_of("test", i).texts) for i in range(150)]
    assert min(counts) >= 10 and max(counts) <= 60 and 25 < np.mean(counts) < 42


@pytest.mark.parametrize("layout", ["receipt_shop", "parking", "travel_pass"])
def test_drawing(layout):
    page = pages.make_page(layout, random.Random(3))
    picture = pages.render(page, random.Random(4))
    assert picture.mode == "RGB" and picture.size == (page.width, page.height)
    assert picture.tobytes() == pages.render(page, random.Random(4)).tobytes()
    assert picture.tobytes() != pages.render(page, random.Random(5)).tobytes()
    dark = np.asarray(picture.convert("L")) < 150
    assert 0.005 < dark.mean() < 0.2
    assert not dark[:3].any() and not dark[-3:].any() and not dark[:, :3].any() and not dark[:, -3:].any()
    for x0, y0, x1, y1 in map(ink, page.texts):  # each text is drawn, up to the scan's skew
        assert dark[int(y0) - 8 : int(y1) + 8, int(x0) : int(x1)].any()


def test_missing_fonts_are_named(monkeypatch):
    with pytest.raises(DataError, match="font must be one of roboto"):
        fonts.font_path("papyrus")
    monkeypatch.setitem(fonts.FAMILIES, "none", ("font_no_such", "files", "A.ttf", "B.ttf"))
    with pytest.raises(DataError, match="pip install font-no-such"):
        fonts.font_path("none-bold")


@pytest.mark.parametrize("family", fonts.FAMILIES)
def test_widths_are_those_of_the_font(family):
    for font in (family, family + "-bold"):
        text = "Invoice No. 48213 €1,228.80 £5"
        drawn = fonts.load_font(font, 22).getlength(text)
        assert fonts.text_width(text, font, 22) == pytest.approx(drawn, rel=0.04)
