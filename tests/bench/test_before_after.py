"""`benchmarks/before_after.py`: two trees in processes of their own, each importing its own; never how long it took."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import deed

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "before_after.py"
SOURCE = Path(deed.__file__).parents[1]


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_two_trees_take_turns_and_are_compared(tmp_path):
    """The old tree is a copy in which the mean depth is forced one deeper: its tokens differ, full depth's do not."""
    ignored = shutil.ignore_patterns("checkpoints", "__pycache__")
    shutil.copytree(SOURCE / "deed", tmp_path / "old" / "deed", ignore=ignored)
    with open(tmp_path / "old" / "deed" / "policies" / "policy.py", "a", encoding="utf-8") as file:
        file.write("\n_init = FixedSchedule.__init__\n\n\ndef _deeper(self, depths, *rest):\n")
        file.write("    _init(self, [[d + 1 for d in row] for row in depths], *rest)\n\n\n")
        file.write("FixedSchedule.__init__ = _deeper\n")
    path = tmp_path / "out" / "result.json"
    done = run(
        *("--old", tmp_path / "old", "--new", SOURCE, "--models", "tiny*", "--rounds", 2, "--new-tokens", 5),
        *("--threads", 1, "--output", path),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert report["versions"]["old"]["deed"].startswith(str(tmp_path)) and report["settings"]["rounds"] == 2
    assert report["versions"]["new"]["deed"].startswith(str(SOURCE)) and report["machine"]["processor"]
    rows = {(row["batch"], row["depths"]): row for row in report["rows"]}
    assert list(rows) == [(1, "full"), (1, "mean 1/4"), (8, "full"), (8, "mean 1/4")]
    for (_, depths), row in rows.items():
        assert row["same_tokens_and_depths"] == (depths == "full") and row["rounds"] == 2 and row["repeats"] >= 1
        assert row["mean_depth"] == 4 if depths == "full" else row["mean_depth"] < 2
        assert row["old_ms_per_token"]["median"] > 0 and row["new_over_old"]["p25"] <= row["new_over_old"]["p75"]
    assert "DIFFERENT" in done.stdout and list(path.parent.iterdir()) == [path]


def test_what_is_no_tree_is_refused(tmp_path):
    done = run("--old", tmp_path, "--models", "tiny*")
    assert done.returncode != 0 and "holds no deed package" in done.stderr
    assert run("--old", SOURCE, "--models", "gpt2").returncode == 2
