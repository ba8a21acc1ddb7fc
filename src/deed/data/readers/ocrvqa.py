"""OCR-VQA: questions about book covers (title, author, genre, …).

On disk, as ocr-vqa.github.io hands it out, in one folder (the pictures are fetched from their addresses, of which many are
dead by now: `skip_missing`):

    dataset.json           {image id: {questions: […], answers: […] (one each), split: 1 train, 2 validation, 3 test,
                           imageURL, title, authorName, genre}}
    images/{image id}.jpg  each saved with the ending of its imageURL: some are .gif or .png

No OCR comes with it: `words` are empty, for `deed.ocr` to fill.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from deed.errors import DataError

from ..base import Example
from .locating import existing_image
from .reading import Entry, Examples, Texts, answers_of, object_entries, wrong

SPLITS = {"train": 1, "validation": 2, "val": 2, "test": 3}
ENDINGS = (".jpg", ".png", ".gif", ".jpeg")


class Cover(Entry):
    """What is read of a cover."""

    split: int
    questions: Texts
    answers: list[str] | None = None
    imageURL: str | None = None


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time; `words` are empty, ids are `{image id}-{number}`.

    Args:
        data: folder with the files above.
        split: `train`, `validation` (or `val`), `test`.
        skip_missing: see `Examples`.

    Raises:
        DataError: no such folder, file or split (at once); a broken entry or JSON, or a missing image (when it is
            reached).
    """
    path = Path(data) / "dataset.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected OCR-VQA's dataset.json and images/ in this folder")
    if split not in SPLITS:
        raise DataError(f"{path}: no split {split!r}; found train, validation, test")
    return Examples(object_entries(path, Cover), partial(_parse, path.parent, SPLITS[split]), skip_missing)


def _parse(folder: Path, wanted: int, entry: tuple[str, Cover], where: str) -> Iterator[Example]:
    image_id, cover = entry
    if cover.split not in SPLITS.values():
        raise wrong(where, "split", "1, 2 or 3", cover.split)
    if cover.split != wanted:
        return
    is_test = cover.split == SPLITS["test"]
    answers = answers_of(cover.answers, is_test, where)
    if len(answers) != len(cover.questions) and not (is_test and not answers):
        raise wrong(where, "answers", f"as many as questions, {len(cover.questions)}", answers)
    image = existing_image(_places(folder, image_id, cover.imageURL, where), where, "imageURL")
    for i, question in enumerate(cover.questions):
        yield Example(question, answers[i : i + 1], image=image, id=f"{image_id}-{i}")


def _places(folder: Path, image_id: str, url: str | None, where: str) -> list[Path]:
    try:
        ending = PurePosixPath(urlsplit(url or "").path).suffix
    except ValueError:
        raise wrong(where, "imageURL", "the address of a picture", url) from None
    endings = dict.fromkeys([ending, *ENDINGS] if url else ENDINGS)
    return [root / f"{image_id}{ending}" for root in (folder / "images", folder) for ending in endings]
