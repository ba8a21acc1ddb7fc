"""DocVQA as an imdb: `imdb_{split}.npy` (MP-DocVQA) or `new_imdb_{split}.npy` (SP-DocVQA), OCR included.

The format of rubenpt91/MP-DocVQA-Framework: a numpy array of objects, a header first, then a dict per question:
question_id, question, answers (not in test), image_name, ocr_tokens, ocr_normalized_boxes (left, top, right, bottom,
0..1 of the page). In MP-DocVQA the last three are lists with an item per page, and answer_page_idx says which one
holds the answer: that page is the example's. Images are `{image_name}.jpg` or `.png`, in the same folder, `images/` or
`documents/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.ocr.words import Word, unit_box
from deed.utils.unpickle import load_objects

from ..base import Example
from .reading import Entry, existing_image, find_split, words_at

FILES = ("imdb_{split}.npy", "new_imdb_{split}.npy")
IMAGE_FOLDERS = ("", "images", "documents")
IMAGE_ENDINGS = (".jpg", ".png", "")  # some names have their ending already


def is_imdb(data: Path) -> bool:
    """Whether the folder holds imdb files."""
    return any(data.glob("*imdb_*.npy"))


def read(data: Path, split: str) -> Iterator[Example]:
    """The questions of a split, in the file's order. Numpy loads such a file whole: it cannot be streamed.

    Raises:
        DataError: no such folder or split (at once); a file that is not such an array or needs more than numbers,
            strings and containers to be read; a broken row or a missing image (when it is reached).
    """
    data = Path(data)
    name, path = find_split(data, split, FILES)
    return _examples(data, path, is_test=name == "test")


def _examples(data: Path, path: Path, is_test: bool) -> Iterator[Example]:
    for i, row in enumerate(load_objects(path)):
        if i == 0 and isinstance(row, dict) and "question" not in row:
            continue  # the header
        entry = Entry(row, f"{path}, row {i}")
        question_id = entry.id("question_id")
        entry.where += f" (question {question_id})"
        page = _page(entry, row)
        name = page.text("image_name")
        candidates = [data / folder / (name + ending) for folder in IMAGE_FOLDERS for ending in IMAGE_ENDINGS]
        yield Example(
            question=entry.text("question"),
            answers=entry.answers(is_test),
            words=_words(page),
            image=existing_image(candidates, entry.where, "image_name"),
            id=question_id,
        )


def _page(entry: Entry, row: dict[str, Any]) -> Entry:
    """The page with the answer; the row itself where there are no pages."""
    names = row.get("image_name")
    if not isinstance(names, list):
        return entry
    index = entry.integer("answer_page_idx") if len(names) != 1 or entry.has("answer_page_idx") else 0
    if not 0 <= index < len(names):
        raise entry.wrong("answer_page_idx", f"a page, 0 to {len(names) - 1}")
    page = {}
    for field in ("image_name", "ocr_tokens", "ocr_normalized_boxes"):
        if len(entry.array(field)) != len(names):
            raise entry.wrong(field, f"an item for each of {len(names)} pages")
        page[field] = row[field][index]
    return Entry(page, f"{entry.where}, page {index}")


def _words(page: Entry) -> list[Word]:
    tokens, boxes = page.array("ocr_tokens"), page.array("ocr_normalized_boxes")
    if len(tokens) != len(boxes):
        raise DataError(
            f"{page.where}: 'ocr_normalized_boxes': expected {len(tokens)}, one per token, got {len(boxes)}"
        )
    words: list[Word] = []
    for i, (text, box) in enumerate(zip(tokens, boxes, strict=True)):
        word = Entry({"ocr_tokens": text, "ocr_normalized_boxes": box}, f"{page.where}, word {i}")
        x0, y0, x1, y1 = word.numbers("ocr_normalized_boxes", 4)
        words += words_at(word.text("ocr_tokens"), unit_box(x0, y0, x1, y1, 1, 1))
    return words
