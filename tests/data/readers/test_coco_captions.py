"""COCO captions reader: COCO's own splits and Karpathy's."""

import pytest
from PIL import Image

from data.formats import edit_json
from data.picture_formats import write_coco_captions, write_karpathy
from deed.data.readers import coco_captions
from deed.errors import DataError


def test_official_splits(tmp_path):
    folder = write_coco_captions(tmp_path)
    examples = list(coco_captions.read(folder, "train"))
    assert [e.id for e in examples] == ["100", "101", "102"]
    example = examples[1]
    assert example.answers == [f"Picture 1, said {j}." for j in range(5)]  # all of them, in the file's order
    assert (example.question, example.kind, example.extra) == ("", "caption", {"task": "caption"})
    assert example.image == folder / "train2014" / "COCO_train2014_000000000101.jpg"
    assert Image.open(example.image).size == (200, 100)
    assert len(list(coco_captions.read(folder, "validation"))) == 2
    assert list(coco_captions.read(folder, "val2014")) == list(coco_captions.read(folder, "val"))
    with pytest.raises(DataError, match=r"no split 'test'; found train, val$"):
        coco_captions.read(folder, "test")
    with pytest.raises(DataError, match="no such folder"):
        coco_captions.read(folder / "none", "train")


def test_files_beside_their_pictures_and_of_2017(tmp_path):
    folder = write_coco_captions(tmp_path)
    (folder / "annotations" / "captions_train2014.json").rename(folder / "captions_train2014.json")
    (folder / "annotations" / "captions_val2014.json").rename(folder / "captions_val2017.json")
    (folder / "images").mkdir()
    (folder / "val2014").rename(folder / "images" / "val2017")
    assert len(list(coco_captions.read(folder, "train2014"))) == 3
    image = next(coco_captions.read(folder, "val")).image
    assert image == folder / "images" / "val2017" / "COCO_val2014_000000000100.jpg"


def test_karpathys_splits(tmp_path):
    folder = write_karpathy(write_coco_captions(tmp_path))
    ids = {split: [e.id for e in coco_captions.read(folder, split)] for split in ("train", "restval", "val", "test")}
    assert ids == {"train": ["201", "204"], "restval": ["202"], "val": ["203"], "test": ["200"]}
    assert [e.id for e in coco_captions.read(folder, "validation")] == ["203"]
    example = next(coco_captions.read(folder, "test"))
    assert example.answers == [f"A cat, {j}." for j in range(5)]
    assert example.image == folder / "val2014" / "COCO_val2014_000000000200.jpg"
    # COCO's own are still to be had
    assert [e.id for e in coco_captions.read(folder, "val2014")] == ["100", "101"]
    with pytest.raises(DataError, match=r"dataset_coco\.json: no split 'dev'; it has train, restval, val, test"):
        coco_captions.read(folder, "dev")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["annotations", 4, "caption"], None, r"annotations\[4\]: 'caption': expected a string, got None"),
        (["annotations", 4, "image_id"], ..., r"annotations\[4\]: 'image_id': expected a number or a string"),
        (
            ["images", 1, "id"],
            7,
            r"images\[1\] \(image 7\): 'id': expected an image that one annotation or more is of",
        ),
        (["images", 1, "file_name"], ..., r"images\[1\] \(image 101\): 'file_name': expected a string"),
        (["images", 1, "file_name"], "a.jpg", r"images\[1\] .*: 'file_name': expected an image file at .*2014/a\.jpg"),
        (["annotations"], {}, r'expected \{"annotations": \[…\]\} with one entry or more, found none'),
    ],
)
def test_a_broken_official_entry_is_named(tmp_path, keys, value, message):
    folder = write_coco_captions(tmp_path)
    edit_json(folder / "annotations" / "captions_train2014.json", *keys, value=value)
    with pytest.raises(DataError, match=rf"captions_train2014\.json(, |: ){message}"):
        list(coco_captions.read(folder, "train"))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["split"], ..., r"images\[1\] \(image 201\): 'split': expected a string, got no such field"),
        (["sentences"], [], r"images\[1\] \(image 201\): 'sentences': expected one caption or more"),
        (["sentences", 2, "raw"], 3, r"images\[1\] \(image 201\), sentences\[2\]: 'raw': expected a string, got 3"),
        (["filename"], "a.jpg", r"images\[1\] .*: 'filename': expected an image file at .*train2014/a\.jpg"),
        (["cocoid"], [], r"images\[1\]: 'cocoid': expected a number or a string"),
    ],
)
def test_a_broken_karpathy_entry_is_named(tmp_path, keys, value, message):
    folder = write_karpathy(tmp_path)
    edit_json(folder / "dataset_coco.json", "images", 1, *keys, value=value)
    with pytest.raises(DataError, match=rf"dataset_coco\.json, {message}"):
        list(coco_captions.read(folder, "train"))


def test_a_file_cut_short(tmp_path):
    path = write_karpathy(tmp_path) / "dataset_coco.json"
    path.write_text(path.read_text()[:-50])
    with pytest.raises(DataError, match=r"dataset_coco\.json: not valid JSON, or cut short"):
        list(coco_captions.read(tmp_path, "train"))
