"""Aligned tables in the text of a page: rows one below the other whose cells start (or end) at the same places."""

from __future__ import annotations

from collections.abc import Sequence

from deed.ocr.words import Word

from .pages import Line

GAP = 12  # thousandths of the page's width between two cells, at least
NEAR = 8  # how far apart the edges of a column may be
LEAST_ROWS, LEAST_COLUMNS = 4, 3  # the head among them
LONGEST_CELL = 4  # words
ROW_HEIGHT = 6  # thousandths of the page's height: text within is of one row

Cell = tuple[str, int, int]


def aligned_tables(lines: Sequence[Line]) -> list[list[list[str]]]:
    """Tables as rows of cells, the head first. Every row has every cell, and no cell is longer than `LONGEST_CELL` words."""
    rows = [_cells(row) for row in _rows(lines)]
    tables: list[list[list[str]]] = []
    run: list[list[Cell]] = []
    for row in [*rows, []]:
        if run and _fits(run[0], row) and _fits(run[-1], row):
            run.append(row)
            continue
        if len(run) >= LEAST_ROWS:
            tables.append([[text for text, _, _ in cells] for cells in run])
        run = [row] if len(row) >= LEAST_COLUMNS else []
    return tables


def _rows(lines: Sequence[Line]) -> list[list[Word]]:
    """Words at one height, left to right, from the top down."""
    words = sorted((word for line in lines for word in line.words), key=lambda w: w.box[1] + w.box[3])
    rows: list[list[Word]] = []
    for word in words:
        middle = (word.box[1] + word.box[3]) / 2
        if rows and abs(middle - sum(rows[-1][0].box[1::2]) / 2) <= ROW_HEIGHT:
            rows[-1].append(word)
        else:
            rows.append([word])
    return [sorted(row, key=lambda w: w.box[0]) for row in rows]


def _cells(row: Sequence[Word]) -> list[Cell]:
    """Text, left and right edge of each cell; nothing where a cell is running text."""
    groups: list[list[Word]] = []
    for word in row:
        if groups and word.box[0] - groups[-1][-1].box[2] < GAP:
            groups[-1].append(word)
        else:
            groups.append([word])
    if any(len(group) > LONGEST_CELL for group in groups):
        return []
    return [(" ".join(w.text for w in g), g[0].box[0], g[-1].box[2]) for g in groups]


def _fits(one: Sequence[Cell], other: Sequence[Cell]) -> bool:
    """Whether two rows have the same columns: each aligned left, right or at the middle."""
    if len(one) != len(other) or len(one) < LEAST_COLUMNS:
        return False
    return all(
        min(abs(a - c), abs(b - d), abs(a + b - c - d) / 2) <= NEAR
        for (_, a, b), (_, c, d) in zip(one, other, strict=True)
    )
