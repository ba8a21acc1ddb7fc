"""Questions about real pages: PDFs of Debian's documentation packages, answered from the pages' own text.

Nobody here drew these pages, so they show what a model does on documents that it was not trained on. Answers are derived by
rules (`deed.data.debian.questions`). Packages are fetched with Debian's own client where they are not there yet.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from deed.data.base import Example
from deed.errors import DataError
from deed.ocr import default_cache, page_image

from .documents import DocumentTask

PAGES, QUESTIONS = 3, 4  # of a package, and of a page: many different pages rather than many of one kind


class DebianTask(DocumentTask):
    """Questions about pages of Debian's PDFs; a package belongs to one split."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reads_data = True

    def examples(self, split: str, count: int | None = None, data: Path | None = None) -> Iterator[Example]:
        """Questions about some pages of each package, in an order that is always the same.

        Args:
            split: `train`, `validation`, `calibration` or `test`.
            count: the first so many; None: all.
            data: a folder of fetched packages, which is not added to; None: one in deed's cache, to which packages are
                fetched.

        Raises:
            DataError: no such split, no such folder or nothing in it, or packages cannot be fetched.
        """
        from deed.data.debian.packages import fetch, package_names, split_of
        from deed.data.debian.pages import load_pages
        from deed.data.debian.questions import questions_of

        if split not in ("train", "validation", "calibration", "test"):
            raise DataError(f"debian has no split {split!r}; there are train, validation, calibration, test")
        names = [name for name in package_names() if split_of(name) == split]
        folder = default_cache().with_name("debian") if data is None else data
        failed: dict[str, str] = {}
        if data is None:
            failed = fetch(names, folder)
        elif not folder.is_dir():
            raise DataError(f"{folder} is no folder of Debian packages")
        found: list[Example] = []
        for name in names:
            pages, rng = list(load_pages(folder, [name])), random.Random(name)
            for page in rng.sample(pages, min(PAGES, len(pages))):
                asked = questions_of(page, rng)
                place = {"pdf": folder / name / page.document, "page": page.number, "package": name}
                found += [
                    Example(q.question, [q.answer], page.all_words, None, f"{name}/{len(found) + i}", q.kind, place)
                    for i, q in enumerate(rng.sample(asked, min(QUESTIONS, len(asked))))
                ]
        if not found:
            why = "".join(f"; {name}: {reason}" for name, reason in list(failed.items())[:1])
            raise DataError(f"{folder} holds no pages of the {split} split{why}")
        random.Random(split).shuffle(found)
        return islice(iter(found), count)

    def opened(self, example: Example) -> Example:
        """The example with its page drawn."""
        return replace(example, image=page_image(example.extra["pdf"], example.extra["page"]))

    def source(self, example: Example) -> str:
        """The package."""
        return str(example.extra["package"])
