"""The report: self-contained, whole or absent, and right about what it marks."""

import copy
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from deed.report import depth_colors, threshold_text
from deed.report.html import change, milliseconds, percent, render, require_report, write_report


def subject(decoder, overall, depth=None):
    values = {"inputs": 2, "tokens": 5, "overall_ms": overall, "encoder_ms": overall - decoder, "decoder_ms": decoder}
    for name in ("overall_ms", "encoder_ms", "decoder_ms"):
        values[f"{name}_per_input"] = {"median": values[name] / 2, "p25": values[name] / 3, "p75": values[name]}
    if depth is not None:
        work = {"computed_cells": 9, "padding_cells": 0, "full_depth_cells": 20, "asked_rows": 7}
        values.update(mean_depth=depth, work=work)
    return values


def example(word, tokens, depths, right=True, full=None, asked=False):
    full = full or tokens
    return {
        "word": word,
        "asked": asked,
        "seen": "not in the dictionary",
        "expected": [] if right is None else ["K AE T"],
        "answer": " ".join(tokens[:-1]),
        "tokens": tokens,
        "depths": depths,
        "right": right,
        "full_depth": " ".join(full[:-1]),
        "full_depth_tokens": full,
        "full_depth_right": right,
    }


RESULTS = {
    "title": "CMUdict, words to pronunciations",
    "unit": "word",
    "score_name": "word accuracy",
    "end_token": "</s>",
    "notes": [],
    "n_layers": 4,
    "full_depth": {"score": 0.5, **subject(40.0, 50.0)},
    "deed": {"score": 0.5, "threshold": 0.9, "threshold_source": "calibrated", **subject(16.0, 26.0, 1.8)},
    "saving": {
        "decoder": 0.6,
        "overall": 0.48,
        "decoder_per_input": {"median": 0.6, "p25": 0.5, "p75": 0.7},
        "overall_per_input": {"median": 0.5, "p25": 0.4, "p75": 0.6},
    },
    "changes": {"lost": 1, "gained": 0},
    "curve": {
        "timed_inputs": 2,
        "scored_inputs": 2,
        "full_depth": {"score": 0.5, **subject(40.0, 50.0)},
        "points": [{"threshold": t, "score": 0.5, **subject(10.0 * t, 20.0 * t, 1 + t)} for t in (0.5, 0.9, 2.0)],
    },
    "depth_histogram": [3, 1, 0, 1],
    "depth_by_position": [{"position": i, "mean_depth": 2.0, "tokens": 2} for i in (1, 2)],
    "examples": [
        example("zyzzyva", ["Z", "IH", "</s>"], [4, 2, 1], right=None, asked=True),
        example("cat", ["K", "AE", "T", "</s>"], [1, 4, 1, 1]),
        example("cut", ["K", "AE", "</s>"], [1, 2, 1], right=False, full=["K", "AH", "</s>"]),
    ],
    "settings": {"model": "folder", "threshold": "0.9"},
    "versions": {"deed": "0"},
    "machine": {"processor": "any"},
    "command": "deed demo",
    "created": "today",
}


class Page(HTMLParser):
    """What a page would load, and which ids it defines and uses."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.used, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name == "href" and value.startswith("#"):
                self.used.append(value[1:])
            elif name in ("src", "href", "srcset", "data", "poster", "action") or tag in ("script", "link", "iframe"):
                self.loads.append((tag, name, value))
            if name == "aria-labelledby":
                self.used.append(value)

    def handle_data(self, data):
        self.text += data


def test_self_contained():
    html = render(RESULTS)
    page = Page(html)
    assert page.loads == []
    assert "http://" not in html and "https://" not in html and "@import" not in html
    references = re.findall(r"url\(([^)]*)\)", html)
    assert all(r.startswith("#") for r in references)
    assert len(page.ids) == len(set(page.ids)), "charts share no ids"
    assert set(page.used) | {r[1:] for r in references} <= set(page.ids)
    assert html.count("<svg") == 3 and "prefers-color-scheme: dark" in html and 'name="viewport"' in html


def test_charts_take_the_colors_of_the_page():
    html = render(RESULTS)
    used, defined = set(re.findall(r"var\((--\w+)\)", html)), set(re.findall(r"(--\w+):", html))
    assert used <= defined and {"--d1", "--d2", "--d4"} <= used
    assert "#0102" not in html and "#0201" not in html, "a stand-in color was left"


def test_numbers_and_marks():
    text = " ".join(Page(render(RESULTS)).text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "60 % less time in the decoder, at a mean depth of 1.8 of 4 layers" in text
    assert "−60 %" in text and "−48 %" in text and "20.0 ms → 8.0 ms per word" in text
    assert "zyzzyva not in the dictionary" in text
    assert "1 of 2 answers are not the full-depth ones. 1 became wrong, 0 became right." in text
    assert "full depth K AH ✗" in text and "listed K AE T" in text
    assert "threshold 0.9 (calibrated)" in text and "full depth, untouched base class" in text


def test_words_are_escaped():
    results = copy.deepcopy(RESULTS)
    results["examples"][0]["word"] = "<script>alert(1)</script>"
    assert "<script" not in render(results)


@pytest.mark.parametrize("layers", [1, 2, 12])
def test_odd_shapes(layers):
    results = copy.deepcopy(RESULTS)
    results["n_layers"], results["depth_histogram"] = layers, [5] + [0] * (layers - 1)
    results["curve"]["points"] = []  # no curve for a threshold per exit
    results["deed"].update(threshold=[0.5, 0.6], mean_depth=1.0)
    results["saving"]["decoder"] = -0.1
    results["notes"] = ["Nothing leaves early."]
    results["examples"] = [example("cat", ["K", "</s>"], [1, 1])]
    html = render(results)
    assert "No time saved" in html and "Nothing leaves early." in html and "[0.5, 0.6]" in html
    assert "Nowhere: all 2 answers" in html and "Your words" not in html and html.count("<svg") == 2


def test_written_whole(tmp_path):
    path = write_report(RESULTS, tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]
    assert json.loads((path.parent / "report.json").read_text(encoding="utf-8")) == RESULTS
    first = path.read_text(encoding="utf-8")
    write_report(RESULTS, tmp_path / "a" / "b")
    assert path.read_text(encoding="utf-8") == first, "the same results give the same file"


def test_nothing_half_written(tmp_path):
    broken = {k: v for k, v in RESULTS.items() if k != "saving"}
    with pytest.raises(Exception, match="saving"):
        write_report(broken, tmp_path / "out")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report({**RESULTS, "extra": float("nan")}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_missing_extra_is_named(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'needs {package}.*pip install "deed-transformers\[report\]"'):
        write_report(RESULTS, tmp_path / "out")
    with pytest.raises(ValueError, match=package):
        require_report()
    assert not (tmp_path / "out").exists()


def test_small_things():
    assert change(0.584) == "−58\N{NO-BREAK SPACE}%" and change(-0.03) == "+3\N{NO-BREAK SPACE}%"
    assert change(0.001) == "0\N{NO-BREAK SPACE}%" and percent(0.6834) == "68.3\N{NO-BREAK SPACE}%"
    times = [milliseconds(x).replace("\N{NO-BREAK SPACE}", " ") for x in (123_400, 1720, 431, 43.12)]
    assert times == ["123 s", "1.72 s", "431 ms", "43.1 ms"]
    assert threshold_text(0.95) == "0.95" and threshold_text([0.5, 0.25]) == "[0.5, 0.25]"
    assert threshold_text(2.0) == "2 (never leaves early)" and threshold_text(2.0, short=True) == "never"
    assert len(set(depth_colors(12))) == 12 and len(depth_colors(1)) == 1
    assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in depth_colors(8))
