"""The pages data set: splits fixed by seed, and unlimited simulated examples for training."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from deed.data.base import Example
from deed.errors import DataError
from deed.ocr.words import Word

from . import questions
from .draft import Page
from .layouts import KNOWN
from .making import set_page
from .render import render
from .simulate import ocr_words
from .unseen import UNSEEN
from .values import LONG

SPLITS = {"train": 400, "validation": 40, "calibration": 320, "test": 150, "unseen": 150}  # pages


def make_page(layout: str, rng: random.Random, n_fields: int | None = None) -> Page:
    """A page of random values in a layout of `KNOWN` or `UNSEEN`.

    Args:
        n_fields: print so many random fields and little else; a table, where the layout has one, may be one of them.
            None: a whole page.

    Raises:
        DataError: an unknown layout.
    """
    form = KNOWN.get(layout) or UNSEEN.get(layout)
    if form is None:
        raise DataError(f"layout must be one of {', '.join([*KNOWN, *UNSEEN])}, got {layout!r}")
    return set_page(layout, form, rng, n_fields)


def page_of(split: str, index: int) -> Page:
    """A whole page of a split, always the same: layouts in turn, values from a seed.

    Raises:
        DataError: no such split or page.
    """
    if split not in SPLITS or not 0 <= index < SPLITS[split]:
        known = ", ".join(f"{name} (0 to {count - 1})" for name, count in SPLITS.items())
        raise DataError(f"no page {index} of {split!r}; pages are {known}")
    layouts = list(UNSEEN if split == "unseen" else KNOWN)
    return make_page(layouts[index % len(layouts)], random.Random(f"{split}/{index}"))


def image_of(split: str, index: int) -> Any:
    """`page_of`, drawn; the same picture each time."""
    return render(page_of(split, index), random.Random(f"{split}/{index}/image"))


def examples_of(split: str, index: int, words: list[Word]) -> list[Example]:
    """The questions of one page: two or three short, one or two longer or about the table, one for all main fields.

    Args:
        words: what OCR read, for every example.
    """
    page = page_of(split, index)
    rng = random.Random(f"{split}/{index}/questions")
    asked = questions.ask(page, rng)
    short = [question for question in asked if question.kind == "short"][: rng.choice((2, 3))]
    other = [question for question in asked if question.kind in ("multi", "row")][: rng.choice((1, 2, 2))]
    whole = [question for question in asked if question.kind == "all"]
    extra = {"layout": page.layout, "fields": page.fields}
    return [
        Example(text, answers, words, None, f"pages/{split}/{index}/{i}", kind, extra)
        for i, (text, answers, kind) in enumerate([*short, *other, *whole])
    ]


def simulated(rng: random.Random, n_fields: int | None = None, layouts: Iterable[str] = tuple(KNOWN)) -> Example:
    """A random page's words as OCR might read them, with one random question; no image.

    Args:
        n_fields: as for `make_page`.
    """
    page = make_page(rng.choice(tuple(layouts)), rng, n_fields)
    text, answers, kind = one_question(page, rng)
    extra = {"layout": page.layout, "fields": page.fields}
    return Example(text, answers, ocr_words(page, rng), None, "", kind, extra)


def one_question(page: Page, rng: random.Random) -> questions.Question:
    """A random question, of the kinds that the page has: short 35, longer 25, table lines 35, all fields 25 (shares)."""
    kinds = {"all": 0.25}
    long = [key for key in page.fields if key in LONG]
    short = [key for key in page.fields if key not in LONG]
    if short:
        kinds["short"] = 0.35
    if long:
        kinds["multi"] = 0.25
    if page.rows:
        kinds["row"] = 0.35
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "all":
        return questions.all_question(page, rng)
    if kind == "row":
        return questions.row_question(page, rng.randrange(len(page.rows)), rng.choice(("price", "quantity")), rng)
    return questions.field_question(page, rng.choice(short if kind == "short" else long), rng)
