"""`deed estimate` on the shipped g2p: by its task and on a file; what is left out; refusals."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deed
from deed.calibration import estimate as module
from deed.calibration.step_costs import Costs
from deed.cli import app

G2P = Path(deed.__file__).parent / "checkpoints" / "g2p"


@pytest.fixture(autouse=True)
def clockwork(monkeypatch):
    monkeypatch.setattr(module, "measured_costs", lambda *_: Costs(exit_check=0.5, extra_position=0.1, layer_ms=0.4))


def call(*arguments):
    return CliRunner().invoke(app, ["estimate", *map(str, arguments)])


def test_of_a_tasks_own_data(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    done = call(G2P, "--count", 24)
    assert done.exit_code == 0, done.output
    assert "24 inputs; an answer of" in " ".join(done.stdout.split()) and "times faster" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[:1].isdigit() and "%" in line]
    assert [row[0] for row in rows if len(row) == 3] == [str(depth) for depth in range(1, 8)]


def test_of_a_file_with_rows_that_cannot_be_read(tmp_path):
    words = ["house", "window", "garden", "orange", "table", "river", "letter", "number", "winter", "summer"]
    lines = [json.dumps({"text": word}) for word in words]
    file = tmp_path / "words.jsonl"
    file.write_text("\n".join([*lines[:4], "{broken", '{"other": 1}', *lines[4:]]))
    done = call(G2P, file, "--json", "--budget", "0.05", "--max-new-tokens", "6")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["examples"] == len(words) and found["costs"]["layer_ms"] == 0.4 and found["advice"]
    assert {p["budget"] for p in found["predictions"]} <= {0.05, 0.0} and len(found["exits"]) == 7
    assert found["answer_tokens"] <= 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl: no such file"),
        (("file", "--split", "val"), "leave them out"),
        (("--task", "unheard-of"), "unheard-of"),
        (("--count", "3"), "equal to 8"),
    ],
)
def test_refusals(arguments, told):
    done = call(G2P, *arguments)
    assert done.exit_code != 0
    assert told in f"{done.output} {done.exception}"


def test_a_file_with_nothing_to_read(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"other": 1}\n')
    done = call(G2P, tmp_path / "bad.jsonl")
    assert "can be read: the row has no text" in str(done.exception)
