"""The command that a record names can be run again."""

import subprocess
import sys

import pytest

from deed.utils import timing


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/deed", "bench", "speech", "--subject", "deed int8*"], "deed bench speech --subject 'deed int8*'"),
        (["benchmarks/exact_speed.py", "--out", "a b"], "python benchmarks/exact_speed.py --out 'a b'"),
    ],
)
def test_of_a_program_and_of_a_script(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    assert timing.command_line() == expected


def test_of_a_module(tmp_path):
    package = tmp_path / "told"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("from deed.utils.timing import command_line\nprint(command_line())\n")
    run = subprocess.run(
        [sys.executable, "-m", "told", "bench", "--x"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "python -m told bench --x"
