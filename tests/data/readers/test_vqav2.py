"""VQAv2 reader."""

import json

import pytest

from data.formats import edit_json, write_json
from data.picture_formats import write_vqav2
from deed.data.readers import vqav2
from deed.errors import DataError
from deed.metrics.text import vqa_accuracy

QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = "v2_mscoco_train2014_annotations.json"


@pytest.fixture
def folder(tmp_path):
    return write_vqav2(tmp_path)


def test_an_example_in_full(folder):
    examples = list(vqav2.read(folder, "train"))
    assert len(examples) == 4
    example = examples[2]
    assert (example.question, example.id, example.kind) == ("How many 2s?", "458753002", "number")
    assert example.answers == ["2"] * 7 + ["many", "none", "many"]  # an answer per annotator
    assert example.image == folder / "train2014" / "COCO_train2014_000000458753.jpg"
    assert example.extra == {"task": "vqa", "question_type": "how many", "multiple_choice_answer": "2"}
    assert vqa_accuracy(["2", "many"], [example.answers] * 2) == pytest.approx((1 + 0.6) / 2)


def test_splits(folder):
    assert next(vqav2.read(folder, "validation")).image == folder / "val2014" / "COCO_val2014_000000458752.jpg"
    for split in ("test", "test-dev"):  # of the same pictures
        example = next(vqav2.read(folder, split))
        assert example.image == folder / "test2015" / "COCO_test2015_000000458752.jpg"
        assert (example.answers, example.kind, example.extra) == ([], "", {"task": "vqa"})
    with pytest.raises(DataError, match=r"no split 'dev'; found test, test-dev, train, val$"):
        vqav2.read(folder, "dev")
    (folder / ANNOTATIONS).unlink()
    with pytest.raises(DataError, match=rf"{ANNOTATIONS}: no such file; the answers to {QUESTIONS} are read from it"):
        vqav2.read(folder, "train")


def test_files_in_folders_of_their_own(folder):
    for name, inside in ((QUESTIONS, "questions"), (ANNOTATIONS, "annotations"), ("train2014", "images")):
        (folder / inside).mkdir()
        (folder / name).rename(folder / inside / name)
    example = next(vqav2.read(folder, "train"))
    assert example.image == folder / "images" / "train2014" / "COCO_train2014_000000458752.jpg"


def test_annotations_in_another_order(folder):
    expected = list(vqav2.read(folder, "train"))
    content = json.loads((folder / ANNOTATIONS).read_text())
    content["annotations"].reverse()
    write_json(folder / ANNOTATIONS, content)
    assert list(vqav2.read(folder, "train")) == expected


def test_annotations_are_read_no_further_than_asked(folder):
    text = (folder / ANNOTATIONS).read_text()
    (folder / ANNOTATIONS).write_text(text[:-400])
    examples = vqav2.read(folder, "train")
    assert [next(examples).id for _ in range(2)] == ["458752000", "458752001"]
    with pytest.raises(DataError, match=rf"{ANNOTATIONS}: not valid JSON, or cut short"):
        list(examples)


@pytest.mark.parametrize(
    ("file", "keys", "value", "message"),
    [
        (QUESTIONS, ["question_id"], ..., r"questions\[1\]: 'question_id': expected a number or a string"),
        (QUESTIONS, ["question"], 3, r"questions\[1\] \(question 458752001\): 'question': expected a string, got 3"),
        (
            QUESTIONS,
            ["question_id"],
            7,
            r"questions\[1\] \(question 7\): 'question_id': expected a question that .* annotation",
        ),
        (QUESTIONS, ["image_id"], "1", r"questions\[1\] .*'image_id': expected a whole number, got '1'"),
        (
            QUESTIONS,
            ["image_id"],
            1,
            r"questions\[1\] .*'image_id': expected an image file at .*COCO_train2014_000000000001",
        ),
        (ANNOTATIONS, ["answers"], [], r"annotations\[1\] \(question 458752001\): 'answers': expected one answer"),
        (
            ANNOTATIONS,
            ["answers", 9, "answer"],
            None,
            r"annotations\[1\].*, answers\[9\]: 'answer': expected a string",
        ),
        (
            ANNOTATIONS,
            ["answer_type"],
            ...,
            r"annotations\[1\].*: 'answer_type': expected a string, got no such field",
        ),
        (ANNOTATIONS, ["question_id"], None, r"annotations\[1\]: 'question_id': expected a number or a string"),
    ],
)
def test_a_broken_entry_is_named(folder, file, keys, value, message):
    edit_json(folder / file, "questions" if file == QUESTIONS else "annotations", 1, *keys, value=value)
    examples = vqav2.read(folder, "train")
    assert next(examples).id == "458752000"
    with pytest.raises(DataError, match=rf"{file}, {message}"):
        next(examples)
