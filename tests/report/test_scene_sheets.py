"""The report's scenes: boxes and labels over exact pictures, tasks in their own units, still self-contained and escaped."""

import base64
import copy
import io
import re
from types import SimpleNamespace

import pytest
from test_html import RESULTS, Page, subject

from deed.report.html import metric, metric_change, render
from deed.report.scenes import alike, exact_uri, on_thousand, scene_entry

END = "</s>"
THINGS = [SimpleNamespace(box=(10, 20, 40, 50)), SimpleNamespace(box=(64, 64, 96, 120))]
SCENE = SimpleNamespace(side=128, things=THINGS)
BOX = {
    "task": "refer",
    "question": "the <small> tree right of it all",
    "answer": "box 64 64 96 120 px",
    "pieces": ["box 64", " 64", " 96", " 120 px", END],
    "depths": [1, 3, 4, 4, 1],
    "box": (64.0, 64.0, 96.0, 120.0),
    "expected_box": (64, 65, 96, 120),
    "expected": ["box 64 65 96 120 px"],
    "overlap": 0.98,
    "value": 1.0,
    "right": True,
}
CAPTION = {
    "task": "caption",
    "question": "what does the image describe?",
    "answer": "a <b>red</b> key",
    "pieces": ["a", " <b>red</b>", " key", END],
    "depths": [1, 1, 2, 1],
    "expected": ["a <i>blue</i> key", "a key of blue"],
    "nearest": "a <i>blue</i> key",
    "value": 7.125,
    "right": False,
}


def row(e, picture="test/0"):
    times = {"overall_ms": 9.0, "decoder_ms": 6.0, "encoder_ms": 3.0, "full_depth_decoder_ms": 12.0}
    full = {"full_depth": e["answer"], "full_depth_tokens": e["pieces"], "full_depth_right": e["right"]}
    place = {"picture": picture, "place": "known combinations", "asked": False}
    return {**e, **times, **full, **place, "tokens": e["pieces"]}


def group(name, metric, best, full, deed, halves):
    return {
        "name": name,
        "metric": metric,
        "best": best,
        "answers": 2,
        "full_depth": {"score": full / best, "value": full, **subject(40.0, 50.0)},
        "deed": {"score": deed / best, "value": deed, **subject(16.0, 26.0, 1.8)},
        "saving": {"decoder": 0.6, "overall": 0.48},
        "depth_histogram": [3, 0, 1, 1],
        "halves": halves,
    }


@pytest.fixture
def results():
    values = copy.deepcopy(RESULTS)
    examples = [row(BOX), row(CAPTION), row({**CAPTION, "question": "what is it?"}, "test/1")]
    halves = {
        "known combinations": {"full_depth": 8.0, "deed": 7.5},
        "unseen combinations": {"full_depth": 6.0, "deed": 5.5},
    }
    values.update(
        title="scenes of pictograms",
        unit="answer",
        score_name="score",
        score_note="The score is a mean.",
        right_note="Right is what is right.",
        sample="3 answers about 2 scenes that training never saw",
        examples=examples,
        groups=[
            group("caption", "CIDEr-D", 10.0, 7.0, 6.5, halves),
            group("easy-vqa", "accuracy", 1.0, 0.9, 0.875, {}),
        ],
        scenes=[scene_entry("test/0", "known combinations", SCENE, list(enumerate(examples[:2])))],
    )
    values["full_depth"].update(right=0.5)
    values["deed"].update(right=0.75)
    return values


@pytest.fixture
def picture():
    from PIL import Image

    return exact_uri(Image.effect_noise((128, 128), 90))


def test_a_box_and_its_label():
    (entry,) = scene_entry("test/0", "known", SCENE, [(4, row(BOX))])["answers"]
    assert entry["example"] == 4 and entry["box"] == (500, 500, 750, 938) and entry["depth"] == 2.6
    assert len(entry["label"]) <= 28 and entry["label"].endswith("…")
    assert entry["side"] == "above-end", "room there, and nothing under it"
    assert "expected_box" not in entry, "a pixel off is none"
    off = row({**BOX, "expected_box": (64, 70, 96, 120)})
    assert scene_entry("test/0", "known", SCENE, [(0, off)])["answers"][0]["expected_box"] == (500, 547, 750, 938)


def test_no_box_and_corners_out_of_order():
    none = row({**BOX, "box": None})
    assert scene_entry("t", "known", SCENE, [(0, none)])["answers"] == [
        {"example": 0, "expected_box": (500, 508, 750, 938)}
    ]
    assert on_thousand((96, 120, 64, 64), (128, 128)) == (500, 500, 750, 938)
    assert alike((1, 2, 3, 4), (0, 3, 3, 4)) and not alike((1, 2, 3, 4), (1, 2, 3, 6))
    assert scene_entry("t", "known", SCENE, [(3, row(CAPTION))])["answers"] == [{"example": 3}]


def test_pictures_are_exact(picture):
    from PIL import Image

    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    back = Image.open(io.BytesIO(base64.b64decode(exact_uri(noise).split(",", 1)[1])))
    assert back.format == "PNG" and back.size == (128, 128) and back.tobytes() == noise.tobytes()


def test_drawn_self_contained(results, picture):
    html = render(results, [picture], {"test/1": "data:image/jpeg;base64,AAAA", "test/0": "data:unused"})
    page = Page(html)
    assert [(tag, name) for tag, name, _ in page.loads] == [("img", "src")] * 2
    assert [value.split(",")[0] for _, _, value in page.loads] == ["data:image/png;base64", "data:image/jpeg;base64"]
    assert "http://" not in html and "https://" not in html and len(page.ids) == len(set(page.ids))
    (box,) = re.findall(r'class="box ring" style="--c: var\(--d(\d)\); ([^"]*)"', html)
    assert box == ("3", "left: 50.0%; top: 50.0%; width: 25.0%; height: 43.8%")
    assert 'class="box ring meant"' not in html and "image-rendering: pixelated" in html
    used, defined = set(re.findall(r"var\((--\w+)\)", html)), set(re.findall(r"(--\w+):", html))
    assert used <= defined


def test_the_expected_box_where_it_is_another(results, picture):
    off = row({**BOX, "expected_box": (0, 0, 32, 32), "right": False, "overlap": 0.0})
    results["examples"][0] = off
    results["scenes"] = [scene_entry("test/0", "known combinations", SCENE, [(0, off)])]
    html = render(results, [picture])
    assert 'class="box ring meant" title="expected" style="left: 0.0%; top: 0.0%; width: 25.0%; height: 25.0%"' in html


def test_what_the_page_says(results, picture):
    text = " ".join(Page(render(results, [picture])).text.replace("\N{NO-BREAK SPACE}", " ").split())
    cells = text.replace(" ", "")
    assert "captionCIDEr-D,0–107.00→6.50−60%−48%1.808.00→7.506.00→5.502" in cells
    assert "easy-vqaaccuracy,%90.0→87.5−60%−48%1.80––2" in cells
    assert "The score is a mean." in text and "Right is what is right." in text
    assert "overlap 0.98 · decoder 6.0 ms, full depth 12.0 ms (−50 %) · encoder 3.0 ms · 5 tokens at depth 2.6" in text
    assert "CIDEr-D 7.12" in text and "rightanswers50.00%75.00%" in cells
    assert "expected a <i>blue</i> key (the nearest of 2)" in text
    assert "The next 1 of the 2 answers" in text and "what is it? caption, test/1" in text
    assert "“the <small> tree right of it all” ✓" in text


def test_escaped(results, picture):
    html = render(results, [picture])
    assert "<small> tree" not in html and "<b>red" not in html and "<i>blue" not in html


def test_without_pictures(results):
    html = render(results)
    assert "<img" not in html and "aspect-ratio: 128 / 128" in html


def test_units():
    told = [metric(0.875, 1), metric(0.875, 1.0, unit=""), metric(7.125, 10), metric_change(-0.025, 1)]
    assert [t.replace("\N{NO-BREAK SPACE}", " ") for t in told] == ["87.5 %", "87.5", "7.12", "−2.5"]
    assert metric_change(0.031, 10) == "+0.03" and metric_change(-0.001, 10) == "0.00"
