"""OCR-VQA reader."""

import pytest
from PIL import Image

from data.formats import edit_json, write_ocrvqa
from deed.data.readers import ocrvqa
from deed.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return write_ocrvqa(tmp_path)


def test_examples_in_full(folder):
    examples = list(ocrvqa.read(folder, "train"))
    assert [e.id for e in examples] == ["100000-0", "100000-1", "100001-0", "100001-1"]
    assert examples[1].question == "What is the title of this book?"
    assert examples[1].answers == ["Title 0"]  # one each, not the cover's whole list
    assert [e.image.name for e in examples[::2]] == ["100000.jpg", "100001.png"]
    assert Image.open(examples[2].image).size == (200, 100)
    assert examples[0].words == []


def test_splits_are_numbers(folder):
    first = {split: next(ocrvqa.read(folder, split)).id for split in ("train", "validation", "val", "test")}
    assert first == {"train": "100000-0", "validation": "200000-0", "val": "200000-0", "test": "300000-0"}
    with pytest.raises(DataError, match=r"dataset\.json: no split 'dev'; found train, validation, test"):
        ocrvqa.read(folder, "dev")
    with pytest.raises(DataError, match=r"none/dataset\.json: no such file"):
        ocrvqa.read(folder / "none", "train")


def test_a_test_split_without_answers(folder):
    edit_json(folder / "dataset.json", "300000", "answers", value=...)
    assert [e.answers for e in ocrvqa.read(folder, "test")] == [[], [], ["Author 1"], ["Title 1"]]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://images.example/I/51.gif?size=3", "100000.gif"),
        ("http://images.example/I/51.jpg", "100000.png"),  # converted since
        (None, "100000.gif"),
    ],
)
def test_the_ending_of_an_image_varies(folder, url, name):
    (folder / "images" / "100000.jpg").rename(folder / "images" / name)
    edit_json(folder / "dataset.json", "100000", "imageURL", value=... if url is None else url)
    assert next(ocrvqa.read(folder, "train")).image.name == name


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("split", ..., "'split': expected a whole number, got no such field"),
        ("split", "1", "'split': expected a whole number, got '1'"),
        ("split", 4, "'split': expected 1, 2 or 3, got 4"),
        ("questions", ..., "'questions': expected a list, got no such field"),
        ("answers", ..., "'answers': expected a list of one or more strings, got no such field"),
        ("answers", ["one"], r"'answers': expected as many as questions, 2, got \['one'\]"),
        ("imageURL", 3, "'imageURL': expected a string, got 3"),
    ],
)
def test_a_broken_entry_is_named(folder, field, value, message):
    edit_json(folder / "dataset.json", "100001", field, value=value)
    examples = ocrvqa.read(folder, "train")
    assert [next(examples).id, next(examples).id] == ["100000-0", "100000-1"]
    with pytest.raises(DataError, match=rf"dataset\.json, entry 100001: {message}"):
        next(examples)


def test_missing_image_and_cut_json(folder):
    (folder / "images" / "100001.png").unlink()
    with pytest.raises(DataError, match=r"entry 100001: 'imageURL': expected an image file at .*100001\.png or "):
        list(ocrvqa.read(folder, "train"))
    path = folder / "dataset.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError, match=r"dataset\.json: not valid JSON, or cut short"):
        list(ocrvqa.read(folder, "test"))
    path.write_text("[1]")
    with pytest.raises(DataError, match=r'expected \{"image id": \{…\}\} with one entry or more, found none'):
        list(ocrvqa.read(folder, "test"))
