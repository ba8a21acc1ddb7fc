"""ST-VQA reader."""

import pytest
from PIL import Image

from data.formats import edit_json, write_stvqa
from deed.data.readers import stvqa
from deed.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return write_stvqa(tmp_path)


def test_an_example_in_full(folder):
    example = next(stvqa.read(folder, "train"))
    number = int(example.id)
    assert (example.question, example.kind) == ("What number?", "coco-text")
    assert example.answers == [str(number), f"number {number}"]
    assert example.words == []  # no OCR is given
    assert example.image == folder / "train" / "coco-text" / f"image_{number}.jpg"
    assert Image.open(example.image).size == (200, 100)


def test_train_and_validation_share_the_train_file(folder):
    train, validation = (list(stvqa.read(folder, split)) for split in ("train", "validation"))
    assert len(train) == len(validation) == 4
    assert all(stvqa.held_out(f"coco-text/{e.image.name}") for e in validation)
    assert not any(stvqa.held_out(f"coco-text/{e.image.name}") for e in train)
    assert list(stvqa.read(folder, "val")) == validation
    assert [e.answers for e in stvqa.read(folder, "test")] == [[]] * 4
    with pytest.raises(DataError, match=r"no split 'dev'; found test, train, validation$"):
        stvqa.read(folder, "dev")
    with pytest.raises(DataError, match="no such folder"):
        stvqa.read(folder / "none", "train")


def test_the_held_out_tenth_is_fixed():
    names = [f"coco-text/COCO_train2014_{i:012}.jpg" for i in range(5000)]
    held = [i for i, name in enumerate(names) if stvqa.held_out(name)]
    assert 450 < len(held) < 550
    assert held[:5] == [6, 19, 28, 45, 51]


def test_the_other_place_for_images(folder):
    (folder / "train" / "coco-text").rename(folder / "coco-text")
    assert next(stvqa.read(folder, "train")).image.parent == folder / "coco-text"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("question_id", ..., "'question_id': expected a number or a string, got no such field"),
        ("file_name", ..., "'file_name': expected a string, got no such field"),
        ("file_path", 5, "'file_path': expected a string, got 5"),
        ("question", ["?"], "'question': expected a string"),
        ("answers", ..., "'answers': expected a list of one or more strings, got no such field"),
        ("dataset", "gone", r"'file_path': expected an image file at .*gone.* or .*gone\.jpg or .*, found none"),
    ],
)
def test_a_broken_entry_is_named(folder, field, value, message):
    for i in range(8):  # whichever split an entry is in
        edit_json(folder / "train_task_3.json", "data", i, field, value=value)
    if value == "gone":
        for i in range(8):
            edit_json(folder / "train_task_3.json", "data", i, "file_path", value="gone.jpg")
    with pytest.raises(DataError, match=r"train_task_3\.json, entry \d.*" + message):
        list(stvqa.read(folder, "train"))


def test_json_cut_short(folder):
    path = folder / "test_task_3.json"
    path.write_text(path.read_text()[:-3])
    with pytest.raises(DataError, match=r"test_task_3\.json: not valid JSON, or cut short"):
        list(stvqa.read(folder, "test"))
