"""`deed bench curve` in this process on tiny random models: table, JSON, what is saved, and how it refuses."""

import json
import re
import shutil
import warnings

import pytest
import torch
import typer
from small_model import save_small_model
from typer.testing import CliRunner

from data.tiny_ofa import save_small_ofa
from deed import DeedConfig, get_deed_model
from deed.cli import bench_curve
from deed.models import small_g2p

FEW = ("--count", 8, "--timed", 2, "--threshold", 0.05, "--threshold", 0.9)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = get_deed_model(
        small_g2p.build_model(tokenizer, n_layers=4, d_model=32, d_ff=32), DeedConfig(threshold=2.0)
    )
    model.generation_config.max_length = 9  # answers of random weights do not end
    path = tmp_path_factory.mktemp("curve") / "model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def run(*arguments, width=60):
    app, group = typer.Typer(), typer.Typer()

    @group.command()
    def speed() -> None: ...

    bench_curve.register(group)
    app.add_typer(group, name="bench")
    env = {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the user should know is a note in the output
        return CliRunner().invoke(
            app, ["bench", "curve", *(str(a) for a in arguments)], env=env, catch_exceptions=False
        )


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["deed_config"]


@pytest.mark.parametrize("width", [40, 60, 100])
def test_table(folder, width):
    done = run(folder, *FEW, width=width)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    header, *rows = lines
    assert header.split() == (
        ["threshold", "score", "drop", "±", "depth", "speedup", "quartiles"]
        if width >= 72
        else ["threshold", "score", "drop", "depth", "speedup"]
    )
    assert any(re.match(r"full depth +0\.\d{4} +0\.0000 .*4\.00 +1\.00", row) for row in rows)
    assert any(row.startswith("0.05 ") for row in rows) and any(row.startswith("0.9 ") for row in rows)
    said = " ".join(done.stdout.split())
    assert "4 examples scored, 2 timed" in said and "Set:" not in said
    assert config_of(folder)["threshold"] == 2.0, "without a target the threshold stays"


def test_json_and_a_target(folder):
    done = run(folder, *FEW, "--repeats", 2, "--batch-size", 2, "--score-drop", 0.999, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["examples"], found["timed"], found["repeats"], found["batch_size"]) == (4, 2, 2, 2)
    best = max(found["points"], key=lambda p: p["speedup"]["median"])
    assert found["target"] == best
    config = config_of(folder)
    assert config["threshold"] == best["threshold"]
    if "curve" in DeedConfig.__dataclass_fields__:
        assert config["curve"]["points"] == found["points"]
    again = run(folder, *FEW, "--speedup", 1.0)
    assert "Set: threshold" in again.stdout


def test_exits_that_cost_more_are_noted(folder, monkeypatch):
    from deed.calibration import curve as targets

    monkeypatch.setattr(targets, "_times", lambda m, e, subjects, *r: [[1.0 + i] for i in range(len(subjects))])
    done = run(folder, *FEW, "--score-drop", 0.5, width=200)
    assert "Note: this model's exits cost more than they save: at no threshold it decodes faster" in done.stdout
    assert "Note: this model's exits cost more than they save: at no threshold with a score drop" in done.stdout
    assert "Set: threshold full depth" in done.stdout


def test_an_unreachable_speedup_is_refused_but_the_curve_is_kept(folder):
    with pytest.raises(ValueError, match="the best reachable is speedup="):
        run(folder, *FEW, "--speedup", 1000)
    config = config_of(folder)
    assert config["threshold"] == 2.0
    if "curve" in DeedConfig.__dataclass_fields__:
        assert config["curve"]["examples"] == 4


def test_questions_about_pictures(tmp_path):
    folder = save_small_model(tmp_path / "model")
    done = run(folder, "--task", "easyvqa", *FEW, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["examples"] == 4 and config_of(folder)["threshold"] == 0.9


def test_an_ofa_is_measured_on_all_its_tasks_mixed(tmp_path):
    folder = save_small_ofa(tmp_path / "model")
    done = run(folder, *FEW, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["examples"] == 4 and found["points"][0]["mean_depth"] == 3
    assert config_of(folder)["curve"]["points"] == found["points"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--score-drop", "0.1", "--speedup", "2"], "--score-drop or --speedup, not both"),
        (["MODEL", "--score-drop", "1.5"], r"--score-drop must lie in \[0, 1\)"),
        (["MODEL", "--speedup", "0.5"], "--speedup must be at least 1"),
        (["MODEL", "--task", "vqa"], "--task must be one of g2p, pages"),
        (["MODEL", "--split", "dev"], "split must be one of"),
        (["MODEL", "--threshold", "1.5", "--count", "4"], r"thresholds must be numbers in \(0, 1\]"),
        (["/nowhere/at/all"], "is not a folder with a saved model"),
    ],
)
def test_bad_input(folder, arguments, message):
    """One ValueError each, which `deed` turns into one line and exit code 2; nothing is written."""
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(*[str(folder) if a == "MODEL" else a for a in arguments])
    assert (folder / "config.json").read_bytes() == before


def test_help_has_an_example():
    done = run("--help", width=80)
    assert done.exit_code == 0 and "deed bench curve" in " ".join(done.stdout.split("Example:")[1].split())
