"""What the tables of `deed bench` look like."""

from __future__ import annotations

from typing import Any


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
