"""Questions about a page, with the value as printed for an answer."""

from __future__ import annotations

import json
import random
from typing import NamedTuple

from . import wording
from .draft import Page
from .values import LONG

KINDS = ("short", "multi", "row", "all")


class Question(NamedTuple):
    """A question in small letters, what counts as right, and its kind of `KINDS`."""

    question: str
    answers: list[str]
    kind: str


def field_question(page: Page, key: str, rng: random.Random) -> Question:
    """Asks for one field of the page.

    Args:
        page: which has the field.
        key: the field's.
        rng: chooses the wording.
    """
    text = rng.choice(wording.QUESTIONS[key]).replace("{n}", page.noun.lower()).replace("{p}", page.place.lower())
    return Question(text, [page.fields[key]], "multi" if key in LONG else "short")


def row_question(page: Page, line: int, column: str, rng: random.Random) -> Question:
    """Asks for the "price" or the "quantity" of a table line.

    Args:
        page: which has the table.
        line: of the table, from 0.
        column: `"price"` or `"quantity"`.
        rng: chooses the wording.
    """
    item, quantity, price = page.rows[line]
    text = rng.choice(wording.ROW_QUESTIONS[column]).replace("{item}", item.lower())
    return Question(text, [price if column == "price" else quantity], "row")


def all_question(page: Page, rng: random.Random) -> Question:
    """Asks for the main fields; the answer is JSON without spaces outside values, keys in canonical order."""
    found = {key: page.fields[key] for key in page.main}
    return Question(
        rng.choice(wording.ALL_QUESTIONS), [json.dumps(found, ensure_ascii=False, separators=(",", ":"))], "all"
    )


def ask(page: Page, rng: random.Random, kind: str | None = None) -> list[Question]:
    """Every question the page has an answer to, one wording of each, in random order; of one kind if given.

    Args:
        page: what is asked about.
        rng: chooses wordings and order.
        kind: the only kind asked for; None: all.
    """
    asked = [
        field_question(page, key, rng) for key in page.fields if kind in (None, "multi" if key in LONG else "short")
    ]
    if kind in (None, "row"):
        asked += [
            row_question(page, i, column, rng) for i in range(len(page.rows)) for column in ("price", "quantity")
        ]
    if kind in (None, "all"):
        asked.append(all_question(page, rng))
    rng.shuffle(asked)
    return asked
