"""The test set of real documents: forty PDFs of the test split's packages, five questions on each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from deed.data.base import Example

from .packages import package_names, split_of
from .pages import DebianPage, load_pages
from .questions import Asked, answer_again, questions_of

PDFS, QUESTIONS = 40, 5
FROM_ANY_TEXT = ("next word", "presence", "unanswerable")  # at most one of each on a PDF


def held_out(folder: Path, split: str = "test") -> Iterator[Example]:
    """The questions, always the same: each derived by a rule, and those of rules checked to have one answer on their page.

    Args:
        folder: where `packages.fetch` put the packages; their pages are read on first use.
        split: of packages.
    """
    names = [name for name in package_names() if split_of(name) == split]
    of_pdf: dict[tuple[str, str], list[DebianPage]] = {}
    for page in load_pages(folder, names):
        of_pdf.setdefault((page.package, page.document), []).append(page)
    # One of each package, then a second of each …
    by_package: dict[str, list[tuple[str, str]]] = {}
    for pdf in sorted(of_pdf):
        by_package.setdefault(pdf[0], []).append(pdf)
    ranked = sorted((rank, pdf) for pdfs in by_package.values() for rank, pdf in enumerate(pdfs))
    done = 0
    for _, pdf in ranked:
        chosen = _questions(of_pdf[pdf], random.Random("/".join(pdf)))
        if len(chosen) < QUESTIONS or done == PDFS:
            continue
        done += 1
        for number, (page, asked) in enumerate(chosen):
            place = {"pdf": folder / page.package / page.document, "page": page.number, "package": page.package}
            id = f"debian/{page.package}/{page.document}/{number}"
            yield Example(asked.question, [asked.answer], page.all_words, None, id, asked.kind, place)


def _questions(pages: list[DebianPage], rng: random.Random) -> list[tuple[DebianPage, Asked]]:
    """Five questions on a document's pages, of as many kinds as there are."""
    found = [(page, asked) for page in pages for asked in questions_of(page, rng, 1)]
    rng.shuffle(found)
    counts: dict[str, int] = {}
    ranked = []
    for page, asked in found:
        by_rule = asked.kind not in FROM_ANY_TEXT
        if by_rule and answer_again(page, asked.question) != [asked.answer]:
            continue
        rank = counts.get(asked.kind, 0)
        counts[asked.kind] = rank + 1
        if by_rule or rank == 0:
            ranked.append((not by_rule, rank, page, asked))
    ranked.sort(key=lambda row: row[:2])
    # Three by rules where there are so many, and two of those that any text has: a page without headings counts, too.
    rules = [row[2:] for row in ranked if not row[0]]
    others = [row[2:] for row in ranked if row[0]]
    chosen = [*rules[: max(3, QUESTIONS - len(others))], *others]
    return chosen[:QUESTIONS]


__all__ = ["held_out"]
