"""TextVQA reader."""

import pytest
from PIL import Image

from data.formats import edit_json, write_textvqa
from deed.data.readers import textvqa
from deed.errors import DataError
from deed.ocr.words import Word

QUESTIONS = "TextVQA_0.5.1_train.json"
OCR = "TextVQA_Rosetta_OCR_v0.2_train.json"


@pytest.fixture
def folder(tmp_path):
    return write_textvqa(tmp_path)


def test_an_example_in_full(folder):
    examples = list(textvqa.read(folder, "train"))
    assert len(examples) == 4
    example = examples[2]
    assert (example.question, example.id) == ("what number is it?", "30002")
    assert example.answers == ["200"] * 8 + ["number", "unanswerable"]  # an answer per annotator
    # fractions of the image, corner and size; what goes past the edge is cut
    assert example.words == [Word("number", (100, 250, 400, 750)), Word("200", (800, 250, 1000, 750))]
    assert example.image == folder / "train_images" / "train2.jpg"
    assert Image.open(example.image).size == (200, 100)


def test_splits(folder):
    assert [e.answers for e in textvqa.read(folder, "test")] == [[]] * 4
    assert next(textvqa.read(folder, "test")).image == folder / "test_images" / "test0.jpg"
    # the validation images lie among those to train on
    assert next(textvqa.read(folder, "validation")).image == folder / "train_images" / "val0.jpg"
    with pytest.raises(DataError, match=r"no split 'dev'; found test, train, val$"):
        textvqa.read(folder, "dev")
    with pytest.raises(DataError, match="no such folder"):
        textvqa.read(folder / "none", "train")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("question_id", ..., "entry 1: 'question_id': expected a number or a string, got no such field"),
        ("question", None, r"entry 1 \(question 30001\): 'question': expected a string, got None"),
        ("answers", ["a", 2], r"'answers\[1\]': expected a string, got 2"),
        ("answers", ..., r"'answers': expected a list of one or more strings, got no such field"),
        ("image_id", "other", f"'image_id': expected an image that {OCR} has an entry for, got 'other'"),
        ("image_id", "val0", f"'image_id': expected an image that {OCR} has an entry for, got 'val0'"),
    ],
)
def test_a_broken_entry_is_named(folder, field, value, message):
    edit_json(folder / QUESTIONS, "data", 1, field, value=value)
    examples = textvqa.read(folder, "train")
    assert next(examples).id == "30000"
    with pytest.raises(DataError, match=rf"{QUESTIONS}, .*{message}"):
        next(examples)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["ocr_info"], ..., r"entry 1 \(image train1\): 'ocr_info': expected a list, got no such field"),
        (["ocr_info", 1, "word"], ..., r"ocr_info\[1\]: 'word': expected a string"),
        (["ocr_info", 1, "bounding_box"], [0, 0, 1, 1], r"ocr_info\[1\]: 'bounding_box': expected an object"),
        (
            ["ocr_info", 1, "bounding_box", "width"],
            ...,
            r"bounding_box: 'width': expected a number, got no such field",
        ),
        (["ocr_info", 1, "bounding_box", "width"], "1", r"bounding_box: 'width': expected a number, got '1'"),
    ],
)
def test_a_broken_ocr_word_is_named(folder, keys, value, message):
    edit_json(folder / OCR, "data", 1, *keys, value=value)
    with pytest.raises(DataError, match=rf"{OCR}, .*{message}"):
        list(textvqa.read(folder, "train"))


def test_missing_and_cut_files(folder):
    (folder / "train_images" / "train3.jpg").unlink()
    with pytest.raises(DataError, match=r"question 30003\): 'image_id': expected an image file at .*train3\.jpg"):
        list(textvqa.read(folder, "train"))
    text = (folder / OCR).read_text()
    (folder / OCR).write_text(text[:-20])
    with pytest.raises(DataError, match=rf"{OCR}: not valid JSON, or cut short"):
        list(textvqa.read(folder, "train"))
    (folder / OCR).unlink()
    with pytest.raises(DataError, match=rf"{OCR}: no such file; the words of {QUESTIONS} are read from it"):
        textvqa.read(folder, "train")
