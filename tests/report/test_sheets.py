"""The report's pages: their answers value by value, drawn in, still self-contained, escaped and small."""

import base64
import copy
import io
import re

import pytest
from test_html import RESULTS, Page, subject

from deed.report.html import render, write_report
from deed.report.sheets import PICTURE, picture_uri, sheet, value_rows

END = "</s>"
WORDS = [
    ("Total:", (50, 200, 130, 220)),
    ("25.00", (700, 200, 760, 220)),
    ("<b>4711</b>", (50, 300, 200, 320)),
]
SHORT = {"question": "what is the <total>?", "answer": "25.00", "expected": ["25.00"], "right": True, "kind": "short"}
SHORT |= {"pieces": ["2", "5.00", END], "depths": [1, 3, 4]}
WHOLE = {
    "question": "list the fields.",
    "answer": '{"total":"25.01","place":"9"}',
    "expected": ['{"number":"<b>4711</b>","total":"25.00","place":"9"}'],
    "right": False,
    "kind": "all",
    "pieces": ['{"', "total", '":"', "25", ".01", '","', "place", '":"', "9", '"}', END],
    "depths": [1, 1, 1, 2, 4, 1, 1, 1, 3, 1, 1],
}


def row(e):
    times = {"overall_ms": 9.0, "decoder_ms": 6.0, "encoder_ms": 3.0, "full_depth_decoder_ms": 12.0}
    full = {"full_depth": e["answer"], "full_depth_tokens": e["pieces"], "full_depth_right": e["right"]}
    place = {"page": "test/0", "layout": "invoice <grid>", "layouts": "known layouts", "asked": False}
    return {**e, **times, **full, **place, "tokens": e["pieces"]}


@pytest.fixture
def results():
    values = copy.deepcopy(RESULTS)
    examples = [row(SHORT), row(WHOLE)]
    page = {"name": "test/0", "layout": "invoice <grid>", "layouts": "known layouts", "size": [800, 1000], "words": 3}
    scores = {"score": 0.9, "exact_match": 0.5}
    group = {
        "name": "known layouts",
        "questions": 2,
        "full_depth": {**scores, **subject(40.0, 50.0)},
        "deed": {**scores, "field_f1": 0.75, **subject(16.0, 26.0, 1.8)},
        "saving": {"decoder": 0.6, "overall": 0.48},
        "depth_histogram": [3, 0, 1, 1],
    }
    group["full_depth"]["field_f1"] = 0.5
    values.update(
        title="questions about documents",
        unit="question",
        score_name="ANLS",
        sample="2 questions about 1 page image that training never saw",
        examples=examples,
        groups=[group, {**group, "name": "short answers", "deed": {**scores, **subject(16.0, 26.0, 1.8)}}],
        ocr={"engine": "reader 1", "pages": 1, "sum_ms": 1500.0, "per_page_ms": {"median": 1500.0}},
        pages=[sheet({**page, "ocr_ms": 1500.0}, WORDS, list(enumerate(examples)), END)],
    )
    values["full_depth"].update(exact_match=0.5, field_f1=0.5)
    values["deed"].update(exact_match=0.5, field_f1=0.75)
    return values


@pytest.fixture
def picture():
    from PIL import Image

    return picture_uri(Image.new("RGB", (800, 1000), "white"))


def test_value_by_value():
    total, place, number = value_rows(row(WHOLE), WORDS, END)
    assert total["pieces"] == ["25", ".01"] and total["depths"] == [2, 4] and total["depth"] == 3.0
    assert (total["expected"], total["right"]) == ("25.00", False) and place["right"] is True
    assert total["boxes"] == [(700, 200, 760, 220)], "misread by a character"
    assert (number["key"], number["text"], number["expected"], number["right"]) == ("number", "", "<b>4711</b>", False)
    (short,) = value_rows(row(SHORT), WORDS, END)
    assert short["label"] == SHORT["question"] and short["depth"] == 2.0 and "right" not in short


def test_a_field_nobody_asked_for_and_an_answer_that_is_no_json():
    e = {**row(WHOLE), "answer": '{"place":"9"}', "pieces": ['{"place":"', "9", '"}'], "depths": [1, 1, 1]}
    e["expected"] = ['{"total":"1"}']
    assert [(v["key"], v["right"]) for v in value_rows(e, WORDS, END)] == [("place", False), ("total", False)]
    (value,) = value_rows({**e, "answer": "9", "pieces": ["9"], "depths": [1]}, WORDS, END)
    assert value["key"] == "" and value["text"] == "9"


def test_an_empty_answer_has_no_mark(results, picture):
    e = {**row(SHORT), "answer": "", "pieces": [END], "depths": [2], "tokens": [END], "right": False}
    results["examples"][0] = e
    page = {k: v for k, v in results["pages"][0].items() if k != "answers"}
    results["pages"] = [sheet(page, WORDS, [(0, e)], END)]
    assert 'class="box' not in render(results, [picture])


def test_drawn_self_contained(results, picture):
    html = render(results, [picture])
    page = Page(html)
    assert [(tag, name) for tag, name, _ in page.loads] == [("img", "src")]
    assert page.loads[0][2].startswith("data:image/jpeg;base64,")
    assert "http://" not in html and "https://" not in html and len(page.ids) == len(set(page.ids))
    boxes = re.findall(r'class="box([^"]*)" style="--c: var\(--d(\d)\); left: 70.0%; top: 20.0%;', html)
    assert sorted(boxes) == [("", "3"), (" whole", "2")], "both answers, coloured by their mean depths"
    used, defined = set(re.findall(r"var\((--\w+)\)", html)), set(re.findall(r"(--\w+):", html))
    assert used <= defined


def test_what_the_page_says(results, picture):
    text = " ".join(Page(render(results, [picture])).text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "2 questions about 1 page image that training never saw, one at a time" in text
    assert "50.0 → 75.0" in text and "90.0 → 90.0" in text and "1.50 s per page (median)" in text
    assert "expected 25.00" in text and "not given" in text
    assert "decoder 6.0 ms, full depth 12.0 ms (−50 %) · encoder 3.0 ms · 3 tokens at depth 2.7" in text
    assert "Further examples" not in text, "none left that are not shown with their page"


def test_escaped(results, picture):
    html = render(results, [picture])
    assert "<total>" not in html and "<grid>" not in html and "<b>4711" not in html


def test_without_pictures(results, tmp_path):
    html = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert "<img" not in html and "aspect-ratio: 800 / 1000" in html


def test_pictures_are_small():
    from PIL import Image

    noise = Image.effect_noise((1700, 2200), 90)  # as bad as a page can be
    uri = picture_uri(noise)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    assert image.format == "JPEG" and max(image.size) == PICTURE and noise.size == (1700, 2200)
    assert len(uri) < 3_000_000 / 8
