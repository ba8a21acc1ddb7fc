"""ST-VQA, task 3 (open dictionary): questions about photographs whose answers are words in them.

On disk, as rrc.cvc.uab.es (challenge 11) hands it out, in one folder:

    train_task_3.json, test_task_3.json   {"data": [{dataset, file_name, file_path, question, question_id,
                                          answers (not in test)}]}
    {dataset}/{file_name} or {file_path}  the images, also below `ROOTS`

No OCR comes with it: `words` are empty, for `deed.ocr` to fill. There is no official validation split either: it is a
tenth of train, all questions of an image together, fixed by a hash of `{dataset}/{file_name}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..base import Example
from .locating import existing_image, find_split
from .reading import Entry, Examples, Id, answers_of, bucket, list_entries

FILES = ("{split}_task_3.json", "{split}/{split}_task_3.json", "Annotations/{split}_task_3.json")
# Where the archives of pictures are unpacked to, by the file's split.
ROOTS = ("", "{split}", "{split}_imgs", "images", "Images", "images/{split}", "Images/{split}", "ST-VQA")
HELD_OUT = 100  # of 1000 hash buckets


class Question(Entry):
    """What is read of a question."""

    named = "question", "question_id"

    question_id: Id
    dataset: str
    file_name: str
    file_path: str
    question: str
    answers: list[str] | None = None


def held_out(image: str) -> bool:
    """Whether the image `{dataset}/{file_name}` of the train file belongs to the validation split."""
    return bucket(image) < HELD_OUT


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time; `words` are empty.

    Args:
        data: folder with the files above.
        split: `train` (nine tenths of the train file), `validation` (or `val`; the rest of it), `test`.
        skip_missing: see `Examples`.

    Yields:
        Example: `kind` is the data set that the image is from (`coco-text`, `vizwiz`, …).

    Raises:
        DataError: no such folder or split (at once); a broken entry or JSON, or a missing image (when it is reached).
    """
    data = Path(data)
    name, path = find_split(data, split, FILES, derived={"validation": "train"})
    return Examples(list_entries(path, "data", Question), partial(_parse, data, name, split), skip_missing)


def _parse(data: Path, name: str, split: str, row: Question, where: str) -> Iterator[Example]:
    image = f"{row.dataset}/{row.file_name}"
    if name == "train" and held_out(image) != (split != "train"):
        return
    roots = [data / root.format(split=name) for root in ROOTS]
    candidates = [root / file for root in roots for file in (image, row.file_path)]
    yield Example(
        question=row.question,
        answers=answers_of(row.answers, name == "test", where),
        image=existing_image(candidates, where, "file_path"),
        id=str(row.question_id),
        kind=row.dataset,
    )
