"""Tables of strings that nobody can guess: what stands in a row and under a head follows from where the words are and from
nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from deed.ocr.words import Word

from .copying import EDGES, HEIGHT, LETTER, STEP, Question, unguessable

Table = Sequence[Sequence[Sequence[str]]]  # rows of cells of words; the first are heads

COLUMNS, CELLS = (2, 6), 3  # of a table; words of a cell at most
GAP = 26  # thousandths of the page between columns, at least
ASKED = 8  # cells asked about, by the hundred words


def grid_page(rng: random.Random, count: int, known: Sequence[str] = ()) -> tuple[list[Word], list[Question]]:
    """A page with one table, and questions about its cells.

    Args:
        rng: decides everything.
        count: words, about.
        known: words to mix in, half of all where there are any.

    Returns:
        As `table_page` does.
    """
    return table_page(random_table(rng, count, known), rng, known)


def random_table(rng: random.Random, count: int, known: Sequence[str] = ()) -> Table:
    """Rows of cells of words; the first row heads the columns, the first cell of each other one names it.

    Args:
        rng: decides everything.
        count: words, about.
        known: words to mix in.
    """
    columns = rng.randint(*COLUMNS)
    rows = max(2, min(12, round(count / (1.4 * columns)) - 1))
    table = [[_some(rng, CELLS, known) for _ in range(columns)]]
    for _ in range(rows):
        name = _some(rng, CELLS, known)
        table.append([name, *(_some(rng, rng.choice((1, CELLS)), known) for _ in range(columns - 1))])
    return table


def table_page(table: Table, rng: random.Random, known: Sequence[str] = ()) -> tuple[list[Word], list[Question]]:
    """A table laid out, with a line or two above it and below.

    Args:
        table: as `random_table` gives it.
        rng: decides where everything stands, and what is asked.
        known: words to mix into the lines.

    Returns:
        The words, boxes on 0..1000, in reading order; kind, question and answer each.
    """
    page: list[Word] = []
    y = rng.randint(20, 200)
    step = rng.choice((STEP, STEP, STEP * 3 // 2, 2 * STEP))
    letter = min(LETTER, (EDGES[1] - EDGES[0] - GAP * len(table[0])) / sum(_widest(table)))
    for line in (_some(rng, 8, known) for _ in range(rng.randint(0, 2))):
        page += _placed(line, EDGES[0], y, letter)
        y += 2 * STEP
    for row, places in zip(table, _places(table, letter, rng), strict=True):
        for cell, left in zip(row, places, strict=True):
            page += _placed(cell, left, min(y, 1000 - HEIGHT), letter)
        y += step
    if y < 1000 - 3 * STEP and rng.random() < 0.4:
        page += _placed(_some(rng, 8, known), EDGES[0], y + STEP, letter)
    return page, _asked(table, rng, page)


def _some(rng: random.Random, most: int, known: Sequence[str]) -> list[str]:
    # Heads, names and cells are of one word mostly; a line above or below is longer.
    size = 1 if rng.random() < 0.6 else rng.randint(1, most)
    return [rng.choice(known) if known and rng.random() < 0.5 else unguessable(rng) for _ in range(size)]


def _widest(table: Table) -> list[int]:
    """Letters of each column's longest cell."""
    return [max(len(" ".join(cell)) for cell in column) for column in zip(*table, strict=True)]


def _placed(texts: Sequence[str], left: float, top: int, letter: float) -> list[Word]:
    words = []
    for text in texts:
        right = left + letter * len(text)
        # A line of long words runs over the page's edge.
        words.append(Word(text, (min(999, int(left)), top, min(1000, int(right) + 1), top + HEIGHT)))
        left = right + letter
    return words


def _places(table: Table, letter: float, rng: random.Random) -> list[list[float]]:
    """Left edge of every cell: columns apart by chance, to the left of their place or all but the first to the right."""
    widest = [letter * letters for letters in _widest(table)]
    free = max(0.0, EDGES[1] - EDGES[0] - sum(widest) - GAP * len(widest)) / len(widest)
    lefts, x = [], float(EDGES[0])
    for column in widest:
        lefts.append(x)
        x += column + GAP + rng.random() * free
    rightwards = rng.random() < 0.5
    return [
        [
            left + (widest[i] - letter * len(" ".join(row[i])) if rightwards and i else 0)
            for i, left in enumerate(lefts)
        ]
        for row in table
    ]


def _asked(table: Table, rng: random.Random, page: Sequence[Word]) -> list[Question]:
    heads, names = [" ".join(cell) for cell in table[0]], [" ".join(row[0]) for row in table[1:]]
    found = [
        ("table", f'what is the "{heads[i]}" of "{name}"?', " ".join(row[i]))
        for name, row in zip(names, table[1:], strict=True)
        for i in range(1, len(heads))
        if heads.count(heads[i]) == 1 and [heads[0], *names].count(name) == 1
    ]
    return rng.sample(found, min(len(found), ASKED * (1 + len(page) // 100)))


__all__ = ["grid_page", "random_table", "table_page"]
