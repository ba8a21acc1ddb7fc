"""`deed bench` as users meet it: help with examples, tables within 80 columns, JSON, files, one clear line on bad input."""

import json

import pytest
import typer
from typer.testing import CliRunner

from deed.bench.scaling import Point, measure_scaling
from deed.cli import bench

SUBJECTS = ["--subject", "deed fp32 full", "--subject", "deed fp32 depth 1*", "--subject", "deed fp32 mean 3/12*"]
QUICK = ["--shape", "tiny-t5", "--rounds", "2", "--new-tokens", "5", *SUBJECTS]


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()

    @app.callback()
    def _() -> None: ...

    bench.register(app)
    runner = CliRunner()

    def call(*arguments):
        return runner.invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "80", "NO_COLOR": "1"})

    return call


def test_help_lists_the_kinds_and_has_examples(run):
    text = run("--help").stdout
    assert all(name in text for name in ("speed", "scaling", "curve")) and "Example: deed bench" in text
    for name in ("speed", "scaling", "curve"):
        assert f"deed bench {name}" in run(name, "--help").stdout.split("Example:")[1]


def test_speed_writes_and_shows(run, tmp_path):
    done = run("speed", *QUICK, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.split("Written:")[0].splitlines())) <= 80
    assert "tiny-t5, batch 1: 4 layers, 12 tokens read, 5 written" in " ".join(done.stdout.split())
    assert "transformers dynamic" in done.stdout and "deed fp32 mean 1/4 plain" in done.stdout, (
        "in layers of this decoder"
    )
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["settings"]["new_tokens"] == 5 and report["compared"] is None

    again = run("speed", *QUICK, "--out", tmp_path, "--compare", tmp_path / "speed.json", "--json")
    assert again.exit_code == 0, again.output
    values = json.loads(again.stdout)
    rows = {row["subject"]: row for row in values["compared"]}
    recorded = {row["subject"]: row for row in report["rows"]}
    full = "deed fp32 full"
    assert rows[full]["then"] == recorded[full]["times_faster_than"]["transformers dynamic"]
    assert rows[full]["now"] is not None
    bench.show_speed(values, [])  # the table of both runs


def test_scaling_writes_and_shows(run, tmp_path, monkeypatch):
    import deed.bench.scaling as module

    small = Point(source=8, answer=4, batch=1, layers=4, vocab=60, width=32)
    monkeypatch.setattr(module, "SWEEPS", {"source": (8, 16), "batch": (1, 2)})
    monkeypatch.setattr(module, "measure_scaling", lambda sweeps, base, *rest: measure_scaling(sweeps, small, *rest))
    done = run("scaling", "--sweep", "source", "--rounds", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "source 16" in done.stdout and "batch" not in done.stdout.split("\n\n")[0]
    assert max(map(len, done.stdout.split("Written:")[0].splitlines())) <= 80
    assert [row["value"] for row in json.loads((tmp_path / "scaling.json").read_text())["rows"]] == [8, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "--shape", "gpt2"], "--shape must be one of t5-small"),
        (["speed", "--subject", "nobody"], "fits no subject"),
        (["speed", "--compare", "/no/file.json"], "--compare /no/file.json cannot be read"),
        (["scaling", "--sweep", "heads"], "--sweep must be one of source"),
        (["scaling", "--width", "100"], "--width must be a multiple of 64"),
    ],
)
def test_bad_input_before_anything_is_measured(run, arguments, message):
    done = run(*arguments)  # deed.cli.main turns a ValueError into one line and exit code 2
    assert done.exit_code != 0 and isinstance(done.exception, ValueError) and message in str(done.exception)


def test_registering_twice_is_harmless(run):
    first, second = typer.Typer(), typer.Typer()
    bench.register(first)
    bench.register(second)
    names = [c.name or c.callback.__name__ for c in bench.group.registered_commands]
    assert names == ["speed", "scaling", "curve", "serve", "speech"]
