"""DocVQA (single page): questions about scanned documents, with the OCR that comes with them.

On disk, as rrc.cvc.uab.es (challenge 17, task 1) hands it out; all in one folder, or a folder per split with its own
`documents` and `ocr_results`:

    {split}_v1.0.json or {split}_v1.0_withQT.json   {"data": [{questionId, question, image, ucsf_document_id,
                                                    ucsf_document_page_no, answers (not in test), question_types}]}
    documents/*.png                                 the field `image` is "documents/….png"
    ocr_results/{ucsf_document_id}_{page}.json      {"recognitionResults": [{width, height, lines: [{words: [{text,
                                                    boundingBox: x1, y1 … x4, y4 in pixels}]}]}]}

A folder with `imdb_{split}.npy` instead is read by `docvqa_imdb`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.ocr.words import Word, unit_box

from ..base import Example
from . import docvqa_imdb
from .reading import Entry, data_entries, existing_image, find_split, words_at

# With question types before without.
FILES = (
    "{split}_v1.0_withQT.json",
    "{split}_v1.0.json",
    "{split}/{split}_v1.0_withQT.json",
    "{split}/{split}_v1.0.json",
)
PAGES_KEPT = 32  # the questions about one page follow each other


def read(data: Path, split: str) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time.

    Args:
        data: folder with the files above, or with an imdb.
        split: `train`, `val` (or `validation`), `test`.

    Yields:
        Example: `kind` is the first of the question's types, all of them are in `extra["question_types"]`.

    Raises:
        DataError: no such folder or split (at once); a broken entry, OCR file or JSON, or a missing image (when it
            is reached).
    """
    data = Path(data)
    if docvqa_imdb.is_imdb(data) and not any(data.glob("*_v1.0*.json")):
        return docvqa_imdb.read(data, split)
    name, path = find_split(data, split, FILES)
    return _examples(path, is_test=name == "test")


def _examples(path: Path, is_test: bool) -> Iterator[Example]:
    page_words = lru_cache(PAGES_KEPT)(read_ocr)
    for entry in data_entries(path):
        question_id = entry.id("questionId")
        entry.where += f" (question {question_id})"
        image = existing_image([path.parent / entry.text("image")], entry.where, "image")
        page = f"{entry.id('ucsf_document_id')}_{entry.id('ucsf_document_page_no')}.json"
        ocr = path.parent / "ocr_results" / page
        if not ocr.is_file():
            raise DataError(f"{entry.where}: 'ucsf_document_page_no': expected the page's OCR at {ocr}, found none")
        types = entry.texts("question_types") if entry.has("question_types") else []
        yield Example(
            question=entry.text("question"),
            answers=entry.answers(is_test),
            words=list(page_words(ocr)),
            image=image,
            id=question_id,
            kind=types[0] if types else "",
            extra={"question_types": types} if types else {},
        )


def read_ocr(path: Path) -> tuple[Word, ...]:
    """The words of one `ocr_results` file, in its order.

    Boxes come as four corners, which are not upright where the text is not: the word's box is their hull.

    Raises:
        DataError: not JSON, or a field missing or wrong; names file, word and field.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); get the file again") from None
    words: list[Word] = []
    for page in Entry(content, str(path)).entries("recognitionResults"):
        width, height = page.number("width"), page.number("height")
        if min(width, height) <= 0:
            raise page.wrong("width" if width <= 0 else "height", "a number above 0")
        for line in page.entries("lines"):
            for word in line.entries("words"):
                corners = word.numbers("boundingBox", 8)
                xs, ys = corners[::2], corners[1::2]
                box = unit_box(min(xs), min(ys), max(xs), max(ys), width, height)
                words += words_at(word.text("text"), box)
    return tuple(words)
