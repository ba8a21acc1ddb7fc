"""Forms in layouts that no training sees, drawn and read by the OCR engine, with their questions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from deed.ocr import default_cache, read_page
from deed.utils.progress import SILENT_BAR, Bar

from ..base import Example
from .forms import make_form

FIELDS, LOOK_UPS = 3, 3  # questions of these kinds, of a form


def read_forms(count: int, cache: Path | bool | None = None, bar: Bar = SILENT_BAR) -> Iterator[Example]:
    """Questions about the first so many held-out forms, always the same: three fields, three table look-ups, the title and
    one that the form does not answer, where it has them.

    Args:
        count: of forms.
        cache: folder for OCR results; None: the default one; False: read anew.
        bar: advanced by one after each form.
    """
    folder = default_cache() if cache is None or cache is True else cache
    for index in range(count):
        form = make_form(random.Random(f"forms/unseen/{index}"), unseen=True)
        image = form.image()
        words = read_page(image, cache=folder).words
        rng = random.Random(f"forms/unseen/{index}/questions")
        asked = form.examples(rng)
        rng.shuffle(asked)
        left = {"field": FIELDS, "table": LOOK_UPS}
        for number, example in enumerate(asked):
            if left.get(example.kind, 1):
                left[example.kind] = left.get(example.kind, 1) - 1
                id = f"forms/{index}/{number}"
                yield Example(example.question, example.answers, words, image, id, example.kind, example.extra)
        bar.advance()


__all__ = ["read_forms"]
