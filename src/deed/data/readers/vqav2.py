"""VQAv2: questions about COCO pictures, each with the answers of ten annotators.

On disk, as visualqa.org hands it out, in one folder; questions and annotations may lie in folders of that name, pictures
wherever `coco_image` looks (`Images/mscoco`, as the official code has them, among the places):

    v2_OpenEnded_mscoco_{split}_questions.json   {"questions": [{question_id, image_id, question}]}
    v2_mscoco_{split}_annotations.json           {"annotations": [{question_id, image_id, question_type, answer_type,
                                                 multiple_choice_answer, answers: [{answer, answer_confidence,
                                                 answer_id} x 10]}]}; not for test
    {split}/COCO_{split}_{image_id, 12 digits}.jpg, also below `images`

with `train2014`, `val2014`, `test2015` and `test-dev2015` for the split; the last has its pictures in `test2015`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import DataError

from ..base import Example
from .coco import coco_image
from .locating import existing_file, find_split
from .reading import Entry, Examples, Id, Whole, list_entries, wrong

FOLDERS = {"questions": ("", "questions/", "Questions/"), "annotations": ("", "annotations/", "Annotations/")}
FILES = tuple(
    f"{folder}v2_OpenEnded_mscoco_{{split}}{year}_questions.json"
    for folder in (*FOLDERS["questions"], "annotations/")
    for year in ("2014", "2015")
)


class Question(Entry):
    """What is read of a question."""

    named = "question", "question_id"

    question_id: Id
    image_id: Whole
    question: str


class Answer(Entry):
    """One annotator's."""

    answer: str


class Annotation(Entry):
    """What is read of a question's annotation."""

    named = "question", "question_id"

    question_id: Id
    question_type: str
    answer_type: str
    multiple_choice_answer: str
    answers: list[Answer]


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time, answers as the annotators gave them.

    Questions and annotations are read side by side; of the annotations, those are kept in memory that come before
    their question's turn (none in the official files, which have the same order).

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`), `test`, `test-dev`.
        skip_missing: see `Examples`.

    Yields:
        Example: `kind` is the answer's type, `"yes/no"`, `"number"` or `"other"` (nothing in test splits);
            `extra["multiple_choice_answer"]` the most frequent answer, `extra["question_type"]` how the question
            begins, `extra["task"]` `"vqa"`.

    Raises:
        DataError: no such folder or split, no annotations for it (at once); a broken entry, a question without
            annotation, a missing image (when it is reached).
    """
    data = Path(data)
    name, questions = find_split(data, split, FILES)
    part = questions.name.removeprefix("v2_OpenEnded_mscoco_").removesuffix("_questions.json")
    annotations = None
    if not name.startswith("test"):
        places = [questions.parent, *(data / folder for folder in FOLDERS["annotations"])]
        annotations = existing_file([place / f"v2_mscoco_{part}_annotations.json" for place in places])
        if annotations is None:
            missing = data / f"v2_mscoco_{part}_annotations.json"
            raise DataError(f"{missing}: no such file; the answers to {questions.name} are read from it")
    pictures = part.replace("-dev", "")
    return Examples(_paired(questions, annotations), partial(_parse, data, pictures), skip_missing)


def _parse(data: Path, pictures: str, pair: Any, where: str) -> Iterator[Example]:
    row, annotation = pair
    answers, kind, extra = [], "", {"task": "vqa"}
    if annotation is not None:
        answers, kind = [answer.answer for answer in annotation.answers], annotation.answer_type
        extra |= {name: getattr(annotation, name) for name in ("question_type", "multiple_choice_answer")}
    image = f"COCO_{pictures}_{row.image_id:012}.jpg"
    yield Example(
        question=row.question,
        answers=answers,
        image=coco_image([data], pictures, image, where, "image_id"),
        id=str(row.question_id),
        kind=kind,
        extra=extra,
    )


def _paired(questions: Path, annotations: Path | None) -> Iterator[tuple[str, tuple[Question, Annotation | None]]]:
    """Each question with its annotation, which are read as far as they are asked for."""
    ahead = _annotations(annotations) if annotations else iter(())
    passed: dict[str, Annotation] = {}
    for where, row in list_entries(questions, "questions", Question):
        wanted = str(row.question_id)
        while annotations and wanted not in passed:
            found = next(ahead, None)
            if found is None:
                expected = f"a question that {annotations.name} has an annotation for"
                raise wrong(where, "question_id", expected, row.question_id)
            passed[str(found.question_id)] = found
        yield where, (row, passed.pop(wanted, None))


def _annotations(path: Path) -> Iterator[Annotation]:
    for where, annotation in list_entries(path, "annotations", Annotation):
        if not annotation.answers:
            raise wrong(where, "answers", "one answer or more", annotation.answers)
        yield annotation
