"""`deed demo --task g2p` on a tiny random model: what it prints and writes, in a narrow terminal, and how it refuses."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from deed import DeedConfig, from_pretrained, get_deed_model
from deed.cli import demo
from deed.data.readers import cmudict
from deed.modeling.saving import save_deed_config
from deed.models import small_g2p

COUNT = 5


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = get_deed_model(
        small_g2p.build_model(tokenizer, n_layers=2, d_model=32, d_ff=32), DeedConfig(threshold=2.0)
    )
    path = tmp_path_factory.mktemp("demo") / "model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(*arguments, **environment):
    app = typer.Typer()
    demo.register(app)
    env = {"COLUMNS": "60", "NO_COLOR": "1", "TERM": "dumb", **environment}
    task = [] if "--task" in arguments else ["--task", "g2p"]
    return CliRunner().invoke(app, [*task, *(str(a) for a in arguments)], env=env, catch_exceptions=False)


@pytest.fixture(scope="module")
def shown(model_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "deep" / "out"
    words = ["Tomato", "cat", "zzyxqq", "tomato"]
    done = run(*words, "--model", model_folder, "--count", COUNT, "--threshold", 0.02, "--output", output)
    return done, output, json.loads((output / "report.json").read_text(encoding="utf-8"))


def test_report_has_the_agreed_keys(shown):
    done, output, report = shown
    assert done.exit_code == 0 and sorted(p.name for p in output.iterdir()) == ["report.html", "report.json"]
    assert report["n_layers"] == 2
    assert {"score", "overall_ms", "decoder_ms"} <= set(report["full_depth"])
    assert {"score", "overall_ms", "decoder_ms", "mean_depth", "threshold"} <= set(report["deed"])
    assert report["deed"]["threshold"] == 0.02 and report["deed"]["threshold_source"] == "given"
    assert report["full_depth"]["inputs"] == report["deed"]["inputs"] == COUNT
    tokens = report["deed"]["tokens"]
    assert sum(report["depth_histogram"]) == tokens == sum(row["tokens"] for row in report["depth_by_position"])
    counted = [e for e in report["examples"] if not e["asked"]]
    assert report["deed"]["decoder_ms"] == pytest.approx(sum(e["decoder_ms"] for e in counted))
    assert report["full_depth"]["overall_ms"] == pytest.approx(sum(e["full_depth_overall_ms"] for e in counted))
    assert report["deed"]["mean_depth"] == pytest.approx(sum(sum(e["depths"]) for e in counted) / tokens)
    thresholds = [point["threshold"] for point in report["curve"]["points"]]
    assert thresholds == sorted(thresholds) and {0.02, 0.95, 2.0} <= set(thresholds)
    assert report["curve"]["points"][-1]["mean_depth"] == 2.0 and report["versions"]["torch"] == torch.__version__


def test_the_sample_is_fixed_and_unseen(shown, model_folder, tmp_path):
    sample = [e["word"] for e in shown[2]["examples"] if not e["asked"]]
    assert all(cmudict.split_of(word) == "test" for word in sample)
    again = run("--model", model_folder, "--count", 2, "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [e["word"] for e in report["examples"]] == sample[:2], "a smaller sample is the head of a larger one"
    # This model's own threshold is 2: that nothing can leave is said, in the terminal and in the report.
    assert "this model is not calibrated" in " ".join(again.stdout.split())
    assert report["deed"]["mean_depth"] == 2.0 and "Nothing leaves early" in report["notes"][0]
    assert [e["answer"] for e in report["examples"]] == [e["full_depth"] for e in report["examples"]]


def test_words_of_the_user(shown):
    asked = [e for e in shown[2]["examples"] if e["asked"]]
    assert [(e["word"], e["split"], e["seen"]) for e in asked] == [
        ("tomato", "test", "never seen in training"),
        ("cat", "train", "seen in training"),
        ("zzyxqq", None, "not in the dictionary"),
    ]
    assert asked[0]["expected"] == ["T AH M EY T OW", "T AH M AA T OW"] and asked[2]["right"] is None
    text = " ".join(shown[0].stdout.split())
    assert "seen in training" in text and "not in the dictionary" in text
    html = (shown[1] / "report.html").read_text(encoding="utf-8")
    assert "Your words" in html and "zzyxqq" in html and "http://" not in html and "https://" not in html


def test_reads_well_in_sixty_columns_without_color(shown):
    lines = shown[0].stdout.splitlines()
    assert "\x1b[" not in shown[0].stdout
    assert all(len(line) <= 60 for line in lines if not line.startswith("report:"))
    assert f"report: {shown[1] / 'report.html'}" in lines, "one line, to be copied"
    assert any(re.match(r"layers run for a token: 1 2 *$", line) for line in lines)
    first = next(line for line in lines if " cat " in line)
    assert re.search(r"[A-Za-z]+[₁₂]", first), "depth as a number beside the token"
    assert re.search(r"word accuracy .*% .*% .*points", shown[0].stdout)
    assert re.search(r"decoder latency .*s .*s .*%", shown[0].stdout)


def test_colors_are_those_of_the_depths(model_folder, tmp_path):
    done = run(
        *["--model", model_folder, "--count", 1, "--threshold", 0, "--output", tmp_path],
        NO_COLOR="",
        FORCE_COLOR="1",
        COLORTERM="truecolor",
        TERM="xterm-256color",
    )
    assert "38;2;31;162;141" in done.stdout, "depth 1"


def test_ascii_terminal(model_folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "deed",
        "demo",
        "--task",
        "g2p",
        "cat",
        "--model",
        str(model_folder),
        "--count",
        "1",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "60", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[A-Za-z]+:2", done.stdout) and "mean depth" in done.stdout


def test_json_is_the_report_and_nothing_else(model_folder, tmp_path):
    done = run("--model", model_folder, "--count", 1, "--output", tmp_path, "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert done.stderr == ""


@pytest.mark.parametrize(("found", "message"), [(0.5, None), (2.0, "calibration found no threshold")])
def test_a_calibrated_model(model_folder, tmp_path, found, message):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    model = from_pretrained(folder)
    model.deed_config.threshold = found
    model.deed_config.calibration = {"threshold": found, "risk": 0.01, "confidence": 0.95}
    save_deed_config(model, folder)
    done = run("--model", folder, "--count", 1, "--output", tmp_path / "out", "--json")
    report = json.loads(done.stdout)
    assert report["deed"]["threshold"] == found and report["deed"]["threshold_source"] == "calibrated"
    assert report["calibration"]["risk"] == 0.01 and report["settings"]["promise"].startswith(
        "score at most 0.01 lower"
    )
    assert any(message in note for note in report["notes"]) if message else "early" not in str(report["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["naïve"], r"'naïve' has \['ï'\]"),
        (["two words"], "'two words' has"),
        ([""], "is empty"),
        (["--task", "vqa"], "--task must be pages, g2p, scenes, or any other together with --model"),
        (["--threshold", "nan"], "--threshold must be a number"),
        (["--threshold", "-1"], "--threshold must be a number"),
        (["--count", "9999"], "--count must be at most 3712"),
        (["--model", "/nowhere"], "/nowhere is not a folder with a saved model"),
        (["--model", "EMPTY"], "it has no config.json"),
        (["--output", "FILE"], "is not a folder that you may write to"),
        (["--output", "FILE/sub"], "is not a folder that you may write to"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    arguments = [
        a.replace("FILE", str(tmp_path / "file")).replace("EMPTY", str(tmp_path / "empty")) for a in arguments
    ]
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=message):
        run(*arguments, *output)
    assert not (tmp_path / "out").exists()


def test_missing_checkpoint_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "CHECKPOINT", tmp_path / "none")
    with pytest.raises(ValueError, match=r"the shipped checkpoint .*none is missing; pass --model"):
        run("--count", 1, "--output", tmp_path / "out")


def test_bad_word_ends_with_code_two_and_one_line(tmp_path):
    command = [sys.executable, "-m", "deed", "demo", "--task", "g2p", "c4t\n", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "has ['4']" in done.stderr
    assert not (tmp_path / "out").exists()
