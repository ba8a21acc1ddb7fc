"""DocVQA (single page): questions about scanned documents, with the OCR that comes with them.

On disk, as rrc.cvc.uab.es (challenge 17, task 1) hands it out: its three archives unpacked into one folder, or, as it was
before, all in one folder or a folder per split:

    spdocvqa_qas/{split}_v1.0_withQT.json       {"data": [{questionId, question, image, ucsf_document_id,
        or {split}_v1.0.json                    ucsf_document_page_no, answers (not in test), question_types}]}
    spdocvqa_images/*.png                       before: documents/*.png, which the field `image` still says
    spdocvqa_ocr/{document id}_{page}.json      before: ocr_results; {"recognitionResults": [{width, height, lines:
                                                [{words: [{text, boundingBox: x1, y1 … x4, y4 in pixels}]}]}]}

The folder given may be that of the questions, too: pictures and OCR are looked for there and one folder above. A folder with
`imdb_{split}.npy` instead is read by `docvqa_imdb`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from deed.ocr.words import Word, unit_box
from deed.utils.files import read_json

from ..base import Example
from . import docvqa_imdb
from .locating import existing_file, existing_image, find_split
from .reading import Entry, Examples, Id, Number, answers_of, list_entries, read_entry, words_at, wrong

# With question types before without.
FOLDERS = ("", "spdocvqa_qas/", "{split}/", "qas/", "annotations/")
FILES = tuple(f"{folder}{{split}}_v1.0{ending}.json" for folder in FOLDERS for ending in ("_withQT", ""))
IMAGE_FOLDERS = ("spdocvqa_images", "documents", "images", "")
OCR_FOLDERS = ("spdocvqa_ocr", "ocr_results", "ocr")
PAGES_KEPT = 32  # the questions about one page follow each other

Size = Annotated[float, Meta(gt=0, le=1e15)]
Corners = tuple[Number, Number, Number, Number, Number, Number, Number, Number]


class Question(Entry):
    """What is read of a question."""

    named = "question", "questionId"

    questionId: Id
    question: str
    image: str
    ucsf_document_id: Id
    ucsf_document_page_no: Id
    answers: list[str] | None = None
    question_types: list[str] | None = None


class OcrWord(Entry):
    """A word with the corners of its box, clockwise from the upper left."""

    text: str
    boundingBox: Corners


class OcrLine(Entry):
    """A line of words."""

    words: list[OcrWord]


class OcrPage(Entry):
    """A page and its size, in the unit of its boxes."""

    width: Size
    height: Size
    lines: list[OcrLine]


class OcrFile(Entry):
    """A file of `spdocvqa_ocr`."""

    recognitionResults: list[OcrPage]


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time.

    Args:
        data: folder with the files above, or with an imdb.
        split: `train`, `val` (or `validation`), `test`.
        skip_missing: see `Examples`.

    Yields:
        Example: `kind` is the first of the question's types, all of them are in `extra["question_types"]`.

    Raises:
        DataError: no such folder or split (at once); a broken entry, OCR file or JSON, or a missing image (when it
            is reached).
    """
    data = Path(data)
    if docvqa_imdb.is_imdb(data) and not any(path for name in FILES for path in data.glob(name.format(split="*"))):
        return docvqa_imdb.read(data, split, skip_missing)
    name, path = find_split(data, split, FILES)
    page_words = lru_cache(PAGES_KEPT)(read_ocr)
    return Examples(
        list_entries(path, "data", Question), partial(_parse, path, name == "test", page_words), skip_missing
    )


def _parse(path: Path, is_test: bool, page_words: Any, row: Question, where: str) -> Iterator[Example]:
    roots = path.parent, path.parent.parent
    name = Path(row.image).name
    images = [root / folder / name for root in roots for folder in IMAGE_FOLDERS]
    image = existing_image([path.parent / row.image, *images], where, "image")
    page = f"{row.ucsf_document_id}_{row.ucsf_document_page_no}.json"
    places = [root / folder / page for root in roots for folder in OCR_FOLDERS]
    if (ocr := existing_file(places)) is None:
        expected = f"the page's OCR (by ucsf_document_id, too) at {' or '.join(map(str, places))}"
        raise wrong(where, "ucsf_document_page_no", expected, row.ucsf_document_page_no)
    types = row.question_types or []
    yield Example(
        question=row.question,
        answers=answers_of(row.answers, is_test, where),
        words=list(page_words(ocr)),
        image=image,
        id=str(row.questionId),
        kind=types[0] if types else "",
        extra={"question_types": types} if types else {},
    )


def read_ocr(path: Path) -> tuple[Word, ...]:
    """The words of one OCR file, in its order.

    Boxes come as four corners, which are not upright where the text is not: the word's box is their hull.

    Raises:
        DataError: not JSON, or a field missing or wrong; names file, word and field.
    """
    words: list[Word] = []
    _, found = read_entry(read_json(path), OcrFile, str(path))
    for page in found.recognitionResults:
        for word in (word for line in page.lines for word in line.words):
            xs, ys = word.boundingBox[::2], word.boundingBox[1::2]
            words += words_at(word.text, unit_box(min(xs), min(ys), max(xs), max(ys), page.width, page.height))
    return tuple(words)
