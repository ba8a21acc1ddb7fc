"""How `--help` looks: in Rich's tables where the terminal has room for them, else in plain lines; paragraphs flow in both."""

from __future__ import annotations

import inspect
import shutil
from typing import Literal

import typer

ROOM = 80  # columns; in less, the tables cut off names of options


def markup() -> Literal["rich"] | None:
    """What Typer is to lay help out with, by the width of the terminal (or the variable COLUMNS)."""
    return "rich" if shutil.get_terminal_size().columns >= ROOM else None


def flow(app: typer.Typer) -> None:
    """Let the paragraphs of all verbs' help flow: Rich ends lines where the source does.

    Args:
        app: with its verbs registered.
    """
    for command in app.registered_commands:
        told = command.help or inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(told).split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow(group.typer_instance)
