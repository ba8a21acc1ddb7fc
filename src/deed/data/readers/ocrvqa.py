"""OCR-VQA: questions about book covers (title, author, genre, …).

On disk, as ocr-vqa.github.io hands it out, in one folder:

    dataset.json           {image id: {questions: […], answers: […] (one each), split: 1 train, 2 validation, 3 test,
                           imageURL, title, authorName, genre}}
    images/{image id}.jpg  each saved with the ending of its imageURL: some are .gif or .png

No OCR comes with it: `words` are empty, for `deed.ocr` to fill.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from deed.errors import DataError

from ..base import Example
from .reading import Entry, existing_image, object_entries

SPLITS = {"train": 1, "validation": 2, "val": 2, "test": 3}
ENDINGS = (".jpg", ".png", ".gif", ".jpeg")


def read(data: Path, split: str) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time; `words` are empty, ids are `{image id}-{number}`.

    Args:
        data: folder with the files above.
        split: `train`, `validation` (or `val`), `test`.

    Raises:
        DataError: no such folder, file or split (at once); a broken entry or JSON, or a missing image (when it is
            reached).
    """
    path = Path(data) / "dataset.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected OCR-VQA's dataset.json and images/ in this folder")
    if split not in SPLITS:
        raise DataError(f"{path}: no split {split!r}; found train, validation, test")
    return _examples(path, SPLITS[split])


def _examples(path: Path, wanted: int) -> Iterator[Example]:
    for image_id, entry in object_entries(path):
        part = entry.integer("split")
        if part not in SPLITS.values():
            raise entry.wrong("split", "1, 2 or 3")
        if part != wanted:
            continue
        questions = entry.texts("questions")
        is_test = part == SPLITS["test"]
        answers = entry.answers(is_test)
        if len(answers) != len(questions) and not (is_test and not answers):
            raise entry.wrong("answers", f"as many as questions, {len(questions)}")
        image = _image(path.parent / "images", image_id, entry)
        for i, question in enumerate(questions):
            yield Example(question, answers[i : i + 1], image=image, id=f"{image_id}-{i}")


def _image(folder: Path, image_id: str, entry: Entry) -> Path:
    endings = list(ENDINGS)
    if entry.has("imageURL"):
        endings.insert(0, PurePosixPath(urlsplit(entry.text("imageURL")).path).suffix)
    candidates = [folder / f"{image_id}{ending}" for ending in dict.fromkeys(endings)]
    return existing_image(candidates, entry.where, "imageURL")
