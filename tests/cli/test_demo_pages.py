"""`deed demo` on documents, with a tiny random model: one page of each split, read by the real OCR engine."""

import json
import re

import pytest
import typer
from small_model import save_small_model
from typer.testing import CliRunner

from deed.cli import demo, demo_pages
from deed.data.synthetic import pages


def run(*arguments, **environment):
    app = typer.Typer()
    demo.register(app)
    env = {"COLUMNS": "60", "NO_COLOR": "1", "TERM": "dumb", **environment}
    return CliRunner().invoke(app, [str(a) for a in arguments], env=env, catch_exceptions=False)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("pages") / "model", threshold=2.0)


@pytest.fixture(scope="module")
def shown(model_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("pages") / "deep" / "out"
    cache = tmp_path_factory.mktemp("pages") / "cache"
    options = ["--model", model_folder, "--count", 1, "--threshold", 0.02, "--output", output]
    done = run(*options, DEED_CACHE=str(cache))
    assert not (cache / "ocr").exists(), "read now, nothing from a cache or into one"
    return done, output, json.loads((output / "report.json").read_text(encoding="utf-8"))


def test_half_short_half_all_fields_of_both_splits(shown):
    examples = shown[2]["examples"]
    assert [(e["page"], e["layouts"]) for e in examples] == [
        *[("test/0", "known layouts")] * 2,
        *[("unseen/0", "unseen layouts")] * 2,
    ]
    assert [e["kind"] == "all" for e in examples] == [False, True] * 2
    for e in examples:
        split, index = e["page"].split("/")
        wanted = {(q.question, tuple(q.answers)) for q in pages.examples_of(split, int(index), [])}
        assert (e["question"], tuple(e["expected"])) in wanted


def test_the_same_question_each_time():
    asked = pages.examples_of("test", 3, [])
    short, whole = demo_pages.half_and_half(asked)
    assert short.kind != "all" == whole.kind and demo_pages.half_and_half(list(asked)) == [short, whole]
    picked = {demo_pages.half_and_half(pages.examples_of("test", i, []))[0].kind for i in range(40)}
    assert picked == {"short", "multi", "row"}


def test_report_adds_up(shown):
    done, output, report = shown
    assert done.exit_code == 0 and sorted(p.name for p in output.iterdir()) == ["report.html", "report.json"]
    full, deed, examples = report["full_depth"], report["deed"], report["examples"]
    assert {"score", "exact_match", "field_f1", "decoder_ms", "overall_ms"} <= set(full) & set(deed)
    assert full["inputs"] == deed["inputs"] == 4 and deed["threshold"] == 0.02
    assert sum(report["depth_histogram"]) == deed["tokens"] == sum(len(e["tokens"]) for e in examples)
    assert deed["decoder_ms"] == pytest.approx(sum(e["decoder_ms"] for e in examples))
    assert deed["mean_depth"] == pytest.approx(sum(sum(e["depths"]) for e in examples) / deed["tokens"])
    groups = {group["name"]: group for group in report["groups"]}
    assert list(groups) == ["known layouts", "unseen layouts", "short answers", "all fields"]
    assert all(group["questions"] == 2 for group in groups.values())
    for one, other in (("known layouts", "unseen layouts"), ("short answers", "all fields")):
        for subject in ("full_depth", "deed"):
            total = groups[one][subject]["decoder_ms"] + groups[other][subject]["decoder_ms"]
            assert total == pytest.approx(report[subject]["decoder_ms"])
        both = [a + b for a, b in zip(groups[one]["depth_histogram"], groups[other]["depth_histogram"], strict=True)]
        assert both == report["depth_histogram"]
    assert "field_f1" not in groups["short answers"]["deed"] and "field_f1" in groups["known layouts"]["deed"]
    thresholds = [point["threshold"] for point in report["curve"]["points"]]
    assert thresholds == sorted({*demo_pages.THRESHOLDS, 0.02}) and report["curve"]["points"][-1]["mean_depth"] == 2.0


def test_ocr_is_told_apart(shown):
    report, text = shown[2], " ".join(shown[0].stdout.split())
    ocr = report["ocr"]
    assert ocr["pages"] == 2 and ocr["engine"].startswith("rapidocr ")
    assert ocr["sum_ms"] > 10 * report["deed"]["encoder_ms"] > 0
    assert re.search(r"OCR \(rapidocr [^)]+\) comes before and is not in these times: .* per page \(median\)", text)


def test_pages_are_in_the_report(shown):
    report, path = shown[2], shown[1] / "report.html"
    html = path.read_text(encoding="utf-8")
    assert [page["name"] for page in report["pages"]] == ["test/0", "unseen/0"]
    assert [a["example"] for page in report["pages"] for a in page["answers"]] == [0, 1, 2, 3]
    assert html.count('src="data:image/jpeg;base64,') == 2 and path.stat().st_size < 3_000_000
    assert "http://" not in html and "https://" not in html and "base64" not in json.dumps(report)
    assert report["pages"][0]["size"] == list(pages.image_of("test", 0).size)
    for page in report["pages"]:
        assert page["words"] > 10 and page["ocr_ms"] > 0
    assert "Known and unseen layouts" in html and "Pages with their answers" in html


def test_reads_well_in_sixty_columns_without_color(shown):
    lines = shown[0].stdout.splitlines()
    assert "\x1b[" not in shown[0].stdout
    assert all(len(line) <= 60 for line in lines if not line.startswith("report:"))
    assert f"report: {shown[1] / 'report.html'}" in lines, "one line, to be copied"
    text = "\n".join(lines)
    for row in ("ANLS", "exact answers", "JSON field F1", "decoder latency", "overall latency", "decoder, median"):
        assert re.search(rf"^{row} .*\S$", text, re.MULTILINE)
    assert re.search(r"^unseen layouts +[\d.]+\s% +\S+ +\S+\s% +\S+\s% +\d\.\d\d", text, re.MULTILINE)
    assert "page test/0: invoice classic, known layouts" in text and re.search(r"[₁₂]", text)


def test_a_model_that_never_leaves_early(model_folder, tmp_path, monkeypatch):
    """Its own threshold is 2. One page, its words not read but as drawn: quick."""
    from deed.data.synthetic import pages_read
    from deed.ocr import OcrResult

    monkeypatch.setattr(pages_read, "read_page", lambda image, cache: OcrResult([], 0, image.size, "blind 1", 0.5))
    done = run("--model", model_folder, "--count", 1, "--output", tmp_path, "--json")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) and done.stderr == ""
    assert report["deed"]["mean_depth"] == 2.0 and "Nothing leaves early" in report["notes"][0]
    assert [e["answer"] for e in report["examples"]] == [e["full_depth"] for e in report["examples"]]
    assert [v["boxes"] for page in report["pages"] for a in page["answers"] for v in a["values"] if v["boxes"]] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat"], "words of your own \\(cat\\) need --task g2p; .*deed ask"),
        (["--threshold", "nan"], "--threshold must be a number"),
        (["--count", "151"], "--count must be at most 150, the pages of each split"),
        (["--model", "/nowhere"], "/nowhere is not a folder with a saved model"),
        (["--model", "EMPTY"], "it has no config.json"),
        (["--model", str(demo.CHECKPOINT)], "needs a LaTr\\+\\+; .* holds a t5 model"),
        (["--output", "FILE"], "is not a folder that you may write to"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    places = {"FILE": str(tmp_path / "file"), "EMPTY": str(tmp_path / "empty")}
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=message):
        run(*[places.get(a, a) for a in arguments], *output)
    assert not (tmp_path / "out").exists()


def test_missing_checkpoint_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "LATR_CHECKPOINT", tmp_path / "none")
    with pytest.raises(ValueError, match=r"the shipped checkpoint .*none is missing; pass --model"):
        run("--output", tmp_path / "out")


@pytest.mark.parametrize("package", ["PIL", "rapidocr", "rapidfuzz"])
def test_missing_package_is_named(monkeypatch, tmp_path, package):
    found = demo_pages.importlib.util.find_spec
    monkeypatch.setattr(demo_pages.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ValueError, match=rf"needs {package}.*deed-transformers\[documents,report\]"):
        run("--output", tmp_path / "out")
