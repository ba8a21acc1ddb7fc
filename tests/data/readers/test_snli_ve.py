"""SNLI-VE reader."""

import json

import pytest
from PIL import Image

from data.picture_formats import write_snli_ve
from deed.data.readers import snli_ve
from deed.errors import DataError
from deed.metrics.text import exact_match
from deed.models.ofa.prompts import ENTAILMENT


@pytest.fixture
def folder(tmp_path):
    return write_snli_ve(tmp_path)


def edit(folder, **changes):
    """Changes to the second line of train (`...`: without the field)."""
    path = folder / "snli_ve_train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = {key: value for key, value in {**json.loads(lines[1]), **changes}.items() if value is not ...}
    path.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n", encoding="utf-8")


def test_an_example_in_full(folder):
    examples = list(snli_ve.read(folder, "train"))
    assert [e.answers for e in examples] == [["maybe"], ["no"], ["yes"]]
    example = examples[1]
    assert (example.question, example.id) == ("The sisters hug 1 é.", "470555291.jpg#2r1c")
    assert example.kind == "contradiction"
    assert example.extra == {"task": "snli_ve", "caption": "Two women embrace."}
    assert example.image == folder / "flickr30k_images" / "470555291.jpg"
    assert Image.open(example.image).size == (200, 100)
    assert exact_match(["maybe", "yes", "yes"], [e.answers for e in examples]) == pytest.approx(2 / 3)
    assert snli_ve.ANSWERS == ENTAILMENT  # what the processor has the model say


def test_splits(folder):
    for name in ("dev", "val", "validation"):
        assert len(list(snli_ve.read(folder, name))) == 3
    with pytest.raises(DataError, match=r"no split 'testA'; found dev, test, train$"):
        snli_ve.read(folder, "testA")
    (folder / "flickr30k_images").rename(folder / "images")
    assert next(snli_ve.read(folder, "test")).image == folder / "images" / "470555290.jpg"


def test_any_example_by_its_place(folder):
    rows = snli_ve.rows(folder, "train")
    assert len(rows) == 3
    assert [rows[2], rows[0], rows[-2]] == [list(rows)[i] for i in (2, 0, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gold_label": "-"}, r"'gold_label': expected one of entailment, neutral, contradiction, got '-'"),
        ({"gold_label": ...}, r"'gold_label': expected a string, got no such field"),
        ({"sentence1": None}, r"'sentence1': expected a string, got None"),
        ({"sentence2": ...}, r"'sentence2': expected a string, got no such field"),
        ({"pairID": ...}, r": 'pairID': expected a number or a string, got no such field"),
        ({"Flickr30K_ID": 5}, r"'Flickr30K_ID': expected an image file at .*flickr30k_images/5\.jpg"),
    ],
)
def test_a_broken_line_is_named(folder, changes, message):
    edit(folder, **changes)
    examples = snli_ve.read(folder, "train")
    next(examples)
    with pytest.raises(DataError, match=rf"snli_ve_train\.jsonl, line 2.*{message}"):
        next(examples)
    with pytest.raises(DataError, match=rf"snli_ve_train\.jsonl, line 2.*{message}"):
        snli_ve.rows(folder, "train")[1]


@pytest.mark.parametrize("line", [b'{"pairID": "a"', b"\xff\xfe", b"[" * 100_000])
def test_a_line_that_is_not_json(folder, line):
    path = folder / "snli_ve_train.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"snli_ve_train\.jsonl, line 4: not valid JSON"):
        list(snli_ve.read(folder, "train"))
    (folder / "snli_ve_dev.jsonl").write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"snli_ve_dev\.jsonl, line 1: expected an object, got \[1\]"):
        list(snli_ve.read(folder, "dev"))
