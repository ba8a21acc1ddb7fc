"""What the tables of `deed bench` look like, and the lines below them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .shared import busy_note


def plain_table(first: str, *headers: str) -> Any:
    """An empty table without lines: text in the first column, numbers in the others.

    Args:
        first, headers: of the columns.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(first, overflow="fold")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def isa_line(isa: dict[str, Any]) -> str:
    """Which instruction sets a result was measured with.

    Args:
        isa: of the result.
    """
    free = f"; not restricted: {', '.join(isa['not_restricted'])}" if isa["not_restricted"] else ""
    return f"Instruction sets: {isa['asked']}; PyTorch uses {isa['torch_uses']}{free}"


def closing(console: Any, report: dict[str, Any], paths: list[Path]) -> None:
    """Whether the machine was busy, and where the result lies.

    Args:
        console: Rich's.
        report: the result.
        paths: its files.
    """
    note = busy_note(report["machine"])
    if note:
        console.print(f"\nNote: {note}")
    console.print(f"\nWritten: {', '.join(map(str, paths))}", soft_wrap=True)
