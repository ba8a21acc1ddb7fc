"""VQAv2: questions about COCO pictures, each with the answers of ten annotators.

On disk, as visualqa.org hands it out, in one folder; questions and annotations may lie in folders of that name:

    v2_OpenEnded_mscoco_{split}_questions.json   {"questions": [{question_id, image_id, question}]}
    v2_mscoco_{split}_annotations.json           {"annotations": [{question_id, image_id, question_type, answer_type,
                                                 multiple_choice_answer, answers: [{answer, answer_confidence,
                                                 answer_id} x 10]}]}; not for test
    {split}/COCO_{split}_{image_id, 12 digits}.jpg, also below `images`

with `train2014`, `val2014`, `test2015` and `test-dev2015` for the split; the last has its pictures in `test2015`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deed.errors import DataError

from ..base import Example
from .coco import coco_image, list_entries
from .reading import Entry, find_split

FILES = tuple(
    f"{folder}v2_OpenEnded_mscoco_{{split}}{year}_questions.json"
    for folder in ("", "questions/")
    for year in ("2014", "2015")
)


def read(data: Path, split: str) -> Iterator[Example]:
    """The questions of a split, in the file's order, one at a time, answers as the annotators gave them.

    Questions and annotations are read side by side; of the annotations, those are kept in memory that come before
    their question's turn (none in the official files, which have the same order).

    Args:
        data: folder with the files above.
        split: `train`, `val` (or `validation`), `test`, `test-dev`.

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
    if name.startswith("test"):
        return _examples(data, questions, part, None)
    annotations = f"v2_mscoco_{part}_annotations.json"
    for folder in (questions.parent, data / "annotations", data):
        if (folder / annotations).is_file():
            return _examples(data, questions, part, folder / annotations)
    raise DataError(f"{data / annotations}: no such file; the answers to {questions.name} are read from it")


def _examples(data: Path, questions: Path, part: str, annotations: Path | None) -> Iterator[Example]:
    given = _Annotations(annotations) if annotations else None
    pictures = part.replace("-dev", "")
    for entry in list_entries(questions, "questions"):
        question_id = entry.id("question_id")
        entry.where += f" (question {question_id})"
        answers, kind, extra = [], "", {"task": "vqa"}
        if given:
            annotation = given.of(question_id, entry)
            answers = [answer.text("answer") for answer in annotation.entries("answers")]
            if not answers:
                raise annotation.wrong("answers", "one answer or more")
            kind = annotation.text("answer_type")
            extra |= {name: annotation.text(name) for name in ("question_type", "multiple_choice_answer")}
        image = f"COCO_{pictures}_{entry.integer('image_id'):012}.jpg"
        yield Example(
            question=entry.text("question"),
            answers=answers,
            image=coco_image([data], pictures, image, entry.where, "image_id"),
            id=question_id,
            kind=kind,
            extra=extra,
        )


class _Annotations:
    """The annotations of a file by question, read as far as they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ahead = list_entries(path, "annotations")
        self._passed: dict[str, Entry] = {}

    def of(self, question_id: str, question: Entry) -> Entry:
        if question_id in self._passed:
            return self._passed.pop(question_id)
        for entry in self._ahead:
            found = entry.id("question_id")
            entry.where += f" (question {found})"
            if found == question_id:
                return entry
            self._passed[found] = entry
        raise question.wrong("question_id", f"a question that {self._path.name} has an annotation for")
