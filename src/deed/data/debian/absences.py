"""Questions that a run of a page does not answer, though others of the page may: a page longer than a model reads is read in
windows, and the one that holds the answer is found only if the others say that they do not.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

from deed.data.base import UNANSWERABLE

from .pages import DebianPage
from .questions import BOTTOM, LARGE, STRANGERS, TOP, Asked, body_size, page_text

KIND = "absent"
LABELS = (
    "Author Version Maintainer Homepage License Date Depends Returns Usage Status Contact Input Output Default Size"
).split()


def absences(page: DebianPage, rng: random.Random, count: int) -> list[Asked]:
    """At most so many of them, of kinds by lot.

    Args:
        page: a page, or a run of its words (`PageStore.page`), whose number is 0 where it does not begin at the top.
        rng: decides everything.
        count: at most.
    """
    found = [*_without_places(page), *_strange_names(page, rng), *_strange_pairs(page, rng)]
    return [Asked(KIND, question, UNANSWERABLE) for question in rng.sample(found, min(count, len(found)))]


def _without_places(page: DebianPage) -> Iterator[str]:
    """What stands at a place that the run does not have."""
    lines = page.page_lines
    if all(TOP <= line.top <= BOTTOM for line in lines):
        yield "what is the page number?"
    if page.number == 0 and max(line.size for line in lines) < LARGE * body_size(page):
        yield "what is the title?"
    if page.number == 0 and not re.search(r"\b(by|authors?)\b", page_text(page), re.IGNORECASE):
        yield "who is the author?"


def _strange_names(page: DebianPage, rng: random.Random) -> Iterator[str]:
    """A section's name or a label that the run does not have."""
    text = page_text(page).lower()
    numbered = [line.text.lower() for line in page.page_lines if re.search(r"\d", line.text)]  # lists of contents, too
    words = [word.text.strip(".,;:()") for word in page.all_words]
    strangers = [word.title() for word in STRANGERS if word not in text]
    # Words of the text that are in no line with a number, or words that are nowhere.
    at, length = rng.randrange(len(words)), rng.randint(1, 3)
    names = [" ".join(words[at : at + length]), " ".join(rng.sample(strangers, min(2, len(strangers))))]
    names = [name for name in names if re.search(r"\w", name) and '"' not in name]
    names = [name for name in names if not any(name.lower() in line for line in numbered)]
    if names:
        yield f'what is the number of the section "{rng.choice(names)}"?'
    labels = [label for label in LABELS if label.lower() not in text]
    if labels:
        yield f'what comes after "{rng.choice(labels)}:"?'
    number = f"{rng.randint(1, 15)}.{rng.randint(1, 9)}"
    if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", text):
        yield f"what is the heading of section {number}?"


def _strange_pairs(page: DebianPage, rng: random.Random) -> Iterator[str]:
    """Two words of the run that do not stand next to each other."""
    words = [word.text for word in page.all_words]
    pairs = set(itertools.pairwise(words))
    plain = [word for word in words if re.search(r"\w", word)]
    if len(plain) > 3:
        first, second = rng.choice(plain), rng.choice(plain)
        if (first, second) not in pairs and '"' not in first + second:
            yield f'which word comes after "{first} {second}"?'


__all__ = ["KIND", "absences"]
