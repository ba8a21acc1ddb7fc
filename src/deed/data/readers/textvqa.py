"""TextVQA 0.5.1: questions about photographs with text in them, with the Rosetta OCR that comes with them.

On disk, as textvqa.org hands it out, in one folder:

    TextVQA_0.5.1_{split}.json                {"data": [{question_id, image_id, question, answers (10; not in test)}]}
    TextVQA_Rosetta_OCR_v0.2_{split}.json     {"data": [{image_id, ocr_info: [{word, bounding_box: {top_left_x,
                                              top_left_y, width, height, rotation}}]}]}, fractions of the image
    train_images/{image_id}.jpg               of train and val
    test_images/{image_id}.jpg
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deed.errors import DataError
from deed.ocr.words import Word, unit_box

from ..base import Example
from .reading import data_entries, existing_image, find_split, words_at

QUESTIONS = "TextVQA_0.5.1_{split}.json"
OCR = "TextVQA_Rosetta_OCR_v0.2_{split}.json"


def read(data: Path, split: str) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time, answers as the ten annotators gave them.

    The OCR file is read first, into an index of words by image; of the questions one is in memory.

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`), `test`.

    Raises:
        DataError: no such folder or split, no OCR file for it (at once); a broken entry or file, an image that is
            missing or has no OCR entry (when it is reached).
    """
    data = Path(data)
    name, questions = find_split(data, split, [QUESTIONS])
    ocr = data / OCR.format(split=name)
    if not ocr.is_file():
        raise DataError(f"{ocr}: no such file; the words of {questions.name} are read from it")
    return _examples(data, questions, ocr, is_test=name == "test")


def _examples(data: Path, questions: Path, ocr: Path, is_test: bool) -> Iterator[Example]:
    words = read_ocr(ocr)
    images = data / ("test_images" if is_test else "train_images")
    for entry in data_entries(questions):
        question_id = entry.id("question_id")
        entry.where += f" (question {question_id})"
        image_id = entry.id("image_id")
        if image_id not in words:
            raise entry.wrong("image_id", f"an image that {ocr.name} has an entry for")
        yield Example(
            question=entry.text("question"),
            answers=entry.answers(is_test),
            words=list(words[image_id]),
            image=existing_image([images / f"{image_id}.jpg"], entry.where, "image_id"),
            id=question_id,
        )


def read_ocr(path: Path) -> dict[str, list[Word]]:
    """Words by image id, in the file's order.

    A box is its upper left corner and size; `rotation` is left out, as in the mmf baselines.

    Raises:
        DataError: no such file, not JSON, or a field missing or wrong; names file, image, word and field.
    """
    words: dict[str, list[Word]] = {}
    for entry in data_entries(path):
        image_id = entry.id("image_id")
        entry.where += f" (image {image_id})"
        found = words[image_id] = []
        for token in entry.entries("ocr_info"):
            box = token.entry("bounding_box")
            x, y = box.number("top_left_x"), box.number("top_left_y")
            corner = x + box.number("width"), y + box.number("height")
            found += words_at(token.text("word"), unit_box(x, y, *corner, 1, 1))
    return words
