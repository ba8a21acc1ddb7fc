"""TextVQA 0.5.1: questions about photographs with text in them, with the Rosetta OCR that comes with them.

On disk, as textvqa.org hands it out, in one folder:

    TextVQA_0.5.1_{split}.json                {"data": [{question_id, image_id, question, answers (10; not in test)}]}
    TextVQA_Rosetta_OCR_v0.2_{split}.json     {"data": [{image_id, ocr_info: [{word, bounding_box: {top_left_x,
                                              top_left_y, width, height, rotation}}]}]}, fractions of the image
    train_images/{image_id}.jpg               of train and val
    test_images/{image_id}.jpg                also below a folder named as the archive, `train_val_images`
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.ocr.words import Word, unit_box

from ..base import Example
from .locating import existing_file, existing_image, find_split
from .reading import Entry, Examples, Id, Number, answers_of, list_entries, words_at, wrong

FOLDERS = ("", "annotations/")
QUESTIONS = "TextVQA_0.5.1_{split}.json"
OCR = "TextVQA_Rosetta_OCR_v0.2_{split}.json"
IMAGES = {False: ("train_images", "train_val_images/train_images"), True: ("test_images", "test_images/test_images")}


class Question(Entry):
    """What is read of a question."""

    named = "question", "question_id"

    question_id: Id
    image_id: Id
    question: str
    answers: list[str] | None = None


class OcrBox(Entry):
    """A word's upper left corner and size, in fractions of the image."""

    top_left_x: Number
    top_left_y: Number
    width: Number
    height: Number


class OcrWord(Entry):
    """A word."""

    word: str
    bounding_box: OcrBox


class OcrImage(Entry):
    """The words of an image."""

    named = "image", "image_id"

    image_id: Id
    ocr_info: list[OcrWord]


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time, answers as the ten annotators gave them.

    The OCR file is read first, into an index of words by image; of the questions one is in memory.

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`), `test`.
        skip_missing: see `Examples`.

    Raises:
        DataError: no such folder or split, no OCR file for it (at once); a broken entry or file, an image that is
            missing or has no OCR entry (when it is reached).
    """
    data = Path(data)
    name, questions = find_split(data, split, [folder + QUESTIONS for folder in FOLDERS])
    places = [folder / OCR.format(split=name) for folder in (data, questions.parent)]
    if (ocr := existing_file(places)) is None:
        raise DataError(f"{places[0]}: no such file; the words of {questions.name} are read from it")
    return Examples(_with_words(questions, ocr), partial(_parse, data, name == "test", ocr.name), skip_missing)


def _with_words(questions: Path, ocr: Path) -> Iterator[tuple[str, tuple[Question, dict[str, list[Word]]]]]:
    words = read_ocr(ocr)
    for where, row in list_entries(questions, "data", Question):
        yield where, (row, words)


def _parse(data: Path, is_test: bool, ocr: str, entry: Any, where: str) -> Iterator[Example]:
    row, words = entry
    image_id = str(row.image_id)
    if image_id not in words:
        raise wrong(where, "image_id", f"an image that {ocr} has an entry for", row.image_id)
    candidates = [data / folder / f"{image_id}.jpg" for folder in IMAGES[is_test]]
    yield Example(
        question=row.question,
        answers=answers_of(row.answers, is_test, where),
        words=list(words[image_id]),
        image=existing_image(candidates, where, "image_id"),
        id=str(row.question_id),
    )


def read_ocr(path: Path) -> dict[str, list[Word]]:
    """Words by image id, in the file's order.

    A box is its upper left corner and size; `rotation` is left out, as in the mmf baselines.

    Raises:
        DataError: no such file, not JSON, or a field missing or wrong; names file, image, word and field.
    """
    words: dict[str, list[Word]] = {}
    for _, image in list_entries(path, "data", OcrImage):
        found = words[str(image.image_id)] = []
        for token in image.ocr_info:
            box = token.bounding_box
            corner = box.top_left_x + box.width, box.top_left_y + box.height
            found += words_at(token.word, unit_box(box.top_left_x, box.top_left_y, *corner, 1, 1))
    return words
