"""Help in terminals narrow and wide: names of options are whole, and no line is longer than the terminal."""

import os
import subprocess
import sys

import pytest
import typer.main

from deed.cli import app
from deed.cli.help_text import flow, markup


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("verb", [["tune"], ["bench", "speech"]], ids=" ".join)
def test_names_of_options_are_whole_and_lines_fit(verb, columns):
    command = typer.main.get_command(app)
    for name in verb:
        command = command.commands[name]
    env = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-m", "deed", *verb, "--help"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    words = done.stdout.replace(",", " ").replace("/", " ").split()
    names = {name for option in command.params for name in option.opts if name.startswith("--")}
    assert len(names) > 10 and names <= set(words)


def test_the_layout_goes_by_the_terminals_width(monkeypatch):
    for columns, wanted in (("79", None), ("80", "rich")):
        monkeypatch.setenv("COLUMNS", columns)
        assert markup() == wanted


def test_paragraphs_flow():
    inner, outer = typer.Typer(), typer.Typer()

    @inner.command()
    def verb() -> None:
        """One line
        and another.

        A second paragraph,
        also of two.
        """

    outer.add_typer(inner, name="group")
    flow(outer)
    assert inner.registered_commands[0].help == "One line and another.\n\nA second paragraph, also of two."
