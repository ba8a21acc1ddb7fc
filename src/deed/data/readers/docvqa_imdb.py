"""DocVQA as an imdb: `imdb_{split}.npy` (MP-DocVQA) or `new_imdb_{split}.npy` (SP-DocVQA), OCR included.

The format of rubenpt91/MP-DocVQA-Framework: a numpy array of objects, a header first, then a dict per question:
question_id, question, answers (not in test), image_name, ocr_tokens, ocr_normalized_boxes (left, top, right, bottom,
0..1 of the page). In MP-DocVQA the last three are lists with an item per page, and answer_page_idx says which one
holds the answer: that page is the example's. Images are `{image_name}.jpg` or `.png`, in the same folder or one beside
it (`IMAGE_FOLDERS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from deed.ocr.words import Word, unit_box
from deed.utils.unpickle import load_objects

from ..base import Example
from .locating import existing_image, find_split
from .reading import Box, Entry, Examples, Id, Whole, answers_of, read_entry, words_at, wrong

FOLDERS = ("", "spdocvqa_imdb/", "imdb/", "mpdocvqa_imdb/")
FILES = tuple(f"{folder}{name}" for folder in FOLDERS for name in ("imdb_{split}.npy", "new_imdb_{split}.npy"))
IMAGE_FOLDERS = ("", "images", "documents", "spdocvqa_images", "mpdocvqa_images")
IMAGE_ENDINGS = (".jpg", ".png", "")  # some names have their ending already


class Question(Entry):
    """What is read of a row but for its page or pages."""

    named = "question", "question_id"

    question_id: Id
    question: str
    image_name: str | list[str]
    answers: list[str] | None = None
    answer_page_idx: Whole | None = None


class Page(Entry):
    """A page: words and their boxes, left, top, right, bottom, 0..1."""

    image_name: str
    ocr_tokens: list[str]
    ocr_normalized_boxes: list[Box]


class Pages(Entry):
    """The same, an item per page; which one matters is told by `answer_page_idx`."""

    image_name: list[Any]
    ocr_tokens: list[Any]
    ocr_normalized_boxes: list[Any]


def is_imdb(data: Path) -> bool:
    """Whether the folder holds imdb files."""
    return any(path for folder in FOLDERS for path in (data / folder).glob("*imdb_*.npy"))


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the file's order. Numpy loads such a file whole: it cannot be streamed.

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`), `test`.
        skip_missing: see `Examples`.

    Raises:
        DataError: no such folder or split (at once); a file that is not such an array or needs more than numbers,
            strings and containers to be read; a broken row or a missing image (when it is reached).
    """
    data = Path(data)
    name, path = find_split(data, split, FILES)
    return Examples(_rows(path), partial(_parse, path.parent, name == "test"), skip_missing)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    for i, row in enumerate(load_objects(path)):
        if i == 0 and isinstance(row, dict) and "question" not in row:
            continue  # the header
        yield f"{path}, row {i}", row


def _parse(folder: Path, is_test: bool, value: Any, where: str) -> Iterator[Example]:
    where, row = read_entry(value, Question, where)
    place, page = _page(row, value, where)
    roots = folder, folder.parent
    candidates = [
        root / inside / (page.image_name + ending)
        for root in roots
        for inside in IMAGE_FOLDERS
        for ending in IMAGE_ENDINGS
    ]
    yield Example(
        question=row.question,
        answers=answers_of(row.answers, is_test, where),
        words=_words(page, place),
        image=existing_image(candidates, place, "image_name"),
        id=str(row.question_id),
    )


def _page(row: Question, value: dict[str, Any], where: str) -> tuple[str, Page]:
    """The page with the answer and its place; the row itself where there are no pages."""
    if isinstance(row.image_name, str):
        return read_entry(value, Page, where)
    _, pages = read_entry(value, Pages, where)
    count = len(row.image_name)
    index = row.answer_page_idx
    if index is None and count == 1:
        index = 0
    if index is None or index >= count:
        raise wrong(where, "answer_page_idx", f"a page, 0 to {count - 1}", index)
    page = {}
    for field in Page.__struct_fields__:
        items = getattr(pages, field)
        if len(items) != count:
            raise wrong(where, field, f"an item for each of {count} pages", items)
        page[field] = items[index]
    return read_entry(page, Page, f"{where}, page {index}")


def _words(page: Page, where: str) -> list[Word]:
    tokens, boxes = page.ocr_tokens, page.ocr_normalized_boxes
    if len(tokens) != len(boxes):
        raise wrong(where, "ocr_normalized_boxes", f"{len(tokens)}, one per token", len(boxes))
    return [
        word
        for text, box in zip(tokens, boxes, strict=True)
        for word in words_at(text, unit_box(*box, width=1, height=1))
    ]
