"""Easy-VQA reader, on the package's own data; and the registry."""

import pytest
from PIL import Image

from deed.data.readers import easyvqa
from deed.errors import DataError

SPLITS = ("train", "validation", "calibration", "test")


def test_splits_are_fixed_and_keep_images_whole():
    splits = {split: list(easyvqa.read(None, split)) for split in SPLITS}
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 35240,
        "validation": 1171,
        "calibration": 2164,
        "test": 9673,
    }
    images = [{e.image for e in rows} for rows in splits.values()]
    assert sum(map(len, images)) == len(set.union(*images)) == 5000
    ids = [e.id for rows in splits.values() for e in rows]
    assert len(set(ids)) == len(ids)
    kinds = {(e.kind, answer) for e in splits["test"] for answer in e.answers}
    assert {answer for kind, answer in kinds if kind == "yes/no"} == {"yes", "no"}
    assert {answer for kind, answer in kinds if kind == "shape"} == {"circle", "rectangle", "triangle"}
    assert len(kinds) == 13


def test_an_example_in_full():
    example = next(easyvqa.read(None, "train"))
    assert (example.question, example.answers, example.kind) == ("what is the blue shape?", ["rectangle"], "shape")
    assert (example.id, example.words) == ("train-0", [])
    assert Image.open(example.image).size == (64, 64)
    assert next(easyvqa.read(None, "val")) == next(easyvqa.read(None, "validation"))


def test_what_it_does_not_take(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no split 'dev'; found train, validation, calibration, test"):
        easyvqa.read(None, "dev")
    with pytest.raises(DataError, match="give no folder"):
        easyvqa.read(tmp_path, "train")
    monkeypatch.setattr("easy_vqa.get_test_image_paths", lambda: {})
    with pytest.raises(DataError, match=r"Easy-VQA test, question 0: 'image': expected an image file at 0\.png"):
        next(easyvqa.read(None, "test"))
    monkeypatch.setitem(__import__("sys").modules, "easy_vqa", None)
    with pytest.raises(DataError, match="pip install easy-vqa"):
        easyvqa.read(None, "train")
