"""What a layout is, and how a page is made in one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from . import values, wording
from .draft import Draft, Page, main_keys


class Layout(NamedTuple):
    """How one kind of page is set.

    Attributes:
        draw: prints the draft's values.
        nouns, places: the kinds of document and place to choose from.
        always: keys that every whole page has; `often`: further ones, of which it has `more`.
        rows: fewest and most table lines of a whole page; `food`: whether they are dishes.
        paper: width and height, px; `size`: of plain text, px.
    """

    draw: Callable[[Draft], None]
    nouns: tuple[str, ...]
    always: tuple[str, ...]
    often: tuple[str, ...]
    more: int
    rows: tuple[int, int]
    food: bool
    places: tuple[str, ...]
    paper: tuple[int, int]
    size: int


def make_layout(
    draw: Callable[[Draft], None],
    nouns: str,
    always: str,
    often: str,
    more: int,
    rows: tuple[int, int] = (0, 0),
    food: bool = False,
    places: str = " ".join(wording.PLACES),
    paper: tuple[int, int] = (800, 1000),
    size: int = 22,
) -> Layout:
    """A layout.

    Args:
        draw: prints a page's blocks.
        nouns, always, often, places: of `Layout`, as words in one string.
        more, rows, food, paper, size: of `Layout`.
    """
    kinds, sure, maybe, where = (tuple(text.split()) for text in (nouns, always, often, places))
    return Layout(draw, kinds, sure, maybe, more, rows, food, where, paper, size)


def set_page(name: str, form: Layout, rng: random.Random, n_fields: int | None = None) -> Page:
    """A page of random values.

    Args:
        name, form: the layout.
        n_fields: as for `data.make_page`.
    """
    n_rows = rng.randint(*form.rows)
    if n_fields is None:
        keys = {*form.always, *rng.sample(form.often, form.more)}
    else:
        if n_rows and n_fields > 1 and rng.random() < 0.5:
            n_fields, n_rows = n_fields - 1, rng.randint(1, min(3, n_fields))
        else:
            n_rows = 0
        pool = (*form.always, *form.often)
        keys = set(rng.sample(pool, min(n_fields, len(pool))))
    ordered = [key for key in values.KEYS if key in keys]
    drawn, rows = values.draw(ordered, n_rows, form.food, rng)
    page = Page(name, rng.choice(form.nouns), rng.choice(form.places), *form.paper)
    page.rows, page.main = rows, main_keys(ordered)
    draft = Draft(page, drawn, rng, form.size, n_fields is None)
    form.draw(draft)
    draft.finish(rng.uniform(0.0, 0.5 if n_fields is None else 0.9))
    return page
