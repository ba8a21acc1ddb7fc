"""RefCOCO reader, and the pickles that it refuses."""

import os
import pickle

import pytest
from PIL import Image

from data.formats import edit_json
from data.picture_formats import coco_refs, python2_pickle, write_refcoco
from deed.data.readers import refcoco
from deed.errors import DataError


def test_an_example_per_expression(tmp_path):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    examples = list(refcoco.read(folder, "train"))
    assert [(e.question, e.id) for e in examples] == [
        ("left box 0", "0"),
        ("the box 0", "1"),
        ("left box 1", "10"),
        ("the box 1", "11"),
    ]
    example = examples[2]
    assert example.answers == [] and example.kind == "refer"
    assert example.extra == {"task": "refer", "box": (11.5, 20.0, 41.75, 60.0), "size": (200, 100), "ref_id": "51"}
    picture = tmp_path / "images" / "mscoco" / "images" / "train2014" / "COCO_train2014_000000581857.jpg"
    assert example.image == picture
    assert Image.open(example.image).size == example.extra["size"]


def test_splits_and_who_made_them(tmp_path):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    assert [e.id for e in refcoco.read(folder, "validation")] == ["20", "21"]
    assert [e.id for e in refcoco.read(folder, "testA")] == ["30", "31"]
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: no split 'test'; found testA, train, val$"):
        refcoco.read(folder, "test")
    google = coco_refs()[:1]
    write_refcoco(tmp_path, pickle.dumps(google), by="google")
    assert len(list(refcoco.read(folder, "train"))) == 4  # unc's comes first
    assert len(list(refcoco.read(folder, "train", split_by="google"))) == 2
    with pytest.raises(DataError, match=r"no refs\(umd\)\.p in this folder; found refs\(google\)\.p, refs\(unc\)\.p$"):
        refcoco.read(folder, "train", split_by="umd")
    umd = write_refcoco(tmp_path, pickle.dumps(google), name="refcocog", by="umd")
    assert len(list(refcoco.read(umd, "train"))) == 2
    with pytest.raises(DataError, match="no such folder"):
        refcoco.read(tmp_path / "none", "train")
    (folder / "instances.json").unlink()
    with pytest.raises(
        DataError, match=r"instances\.json: no such file; the boxes of refs\(unc\)\.p are read from it"
    ):
        refcoco.read(folder, "train")


def test_pictures_in_the_data_sets_own_folder(tmp_path):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    (tmp_path / "images" / "mscoco" / "images" / "train2014").rename(folder / "train2014")
    assert next(refcoco.read(folder, "train")).image.parent == folder / "train2014"


@pytest.mark.parametrize("protocol", [0, 2])
def test_python_2_pickles(tmp_path, protocol):
    refs = coco_refs()
    refs[0]["sentences"][0]["sent"] = "the café's sign"
    data = python2_pickle(refs, protocol)
    with pytest.raises(UnicodeDecodeError):  # what Python 3 makes of it without the encoding
        pickle.loads(data)
    assert pickle.loads(data, encoding="latin1") == refs
    folder = write_refcoco(tmp_path, data)
    examples = list(refcoco.read(folder, "train"))
    assert [e.question for e in examples[:2]] == ["the café's sign", "the box 0"]
    assert examples[3].extra["box"] == (11.5, 20.0, 41.75, 60.0)


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused(tmp_path, protocol):
    trace = tmp_path / "executed"
    refs = coco_refs()
    refs[1]["sentences"].append(Evil(os.system, f"touch {trace}"))
    data = pickle.dumps(refs, protocol)
    folder = write_refcoco(tmp_path, data)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: cannot be read as .*it refers to \w+\.system, .*; refused"):
        refcoco.read(folder, "train")
    assert not trace.exists()
    pickle.loads(data)  # it would have run
    assert trace.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"c__builtin__\neval\n(S'1'\ntR.", "refers to builtins.eval"),
        (b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'dump'\ntR.", "refers to builtins.getattr"),
        (b"cdeed.utils.unpickle\npickle\n.", "refers to deed.utils.unpickle.pickle"),
        (b"cnumpy\nndarray\n.", "expected data, got a type"),
        (pickle.dumps(coco_refs())[:-30], "cannot be read as a pickled list of refs"),
        (b"", "cannot be read as a pickled list of refs: Ran out of input"),
        (b"version https://git-lfs.github.com/spec/v1\n", "cannot be read as a pickled list of refs"),
        (pickle.dumps({"a": 1}), "expected a list of one ref or more, got dict"),
        (pickle.dumps([]), "expected a list of one ref or more, got list"),
    ],
)
def test_other_pickles_that_are_no_refs(tmp_path, data, message):
    folder = write_refcoco(tmp_path, data)
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p: .*{message}"):
        refcoco.read(folder, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": 3}, r"ref 1 \(ref_id 51\): 'split': expected a string, got 3"),
        ({"ref_id": None}, r"ref 1: 'ref_id': expected a number or a string, got None"),
        ({"ann_id": 5}, r"ref 1 \(ref_id 51\): 'ann_id': expected an annotation in instances\.json, got 5"),
        ({"image_id": 5}, r"ref 1 \(ref_id 51\): 'image_id': expected an image in instances\.json, got 5"),
        ({"sentences": []}, r"ref 1 \(ref_id 51\): 'sentences': expected one expression or more"),
        ({"sentences": [{"sent_id": 1}]}, r"ref 1 .*, sentences\[0\]: 'sent': expected a string, got no such field"),
        ({"sentences": ["left"]}, r"ref 1 .*: 'sentences\[0\]': expected an object, got 'left'"),
    ],
)
def test_a_broken_ref_is_named(tmp_path, changes, message):
    refs = coco_refs()
    refs[1].update(changes)
    folder = write_refcoco(tmp_path, pickle.dumps(refs))
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p, {message}"):
        list(refcoco.read(folder, "train"))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ["annotations", 1, "bbox"],
            [1, 2, 3],
            r"annotations\[1\] \(annotation 1719311\): 'bbox': expected a list of length 4",
        ),
        (["annotations", 1, "bbox"], [1, 2, -3, 4], r"annotations\[1\] .*: 'bbox': expected .*sizes not negative"),
        (["annotations", 1, "id"], ..., r"annotations\[1\]: 'id': expected a number or a string, got no such field"),
        (["images", 0, "width"], "wide", r"images\[0\]: 'width': expected a whole number, got 'wide'"),
        (["images", 0, "file_name"], ..., r"images\[0\]: 'file_name': expected a string"),
    ],
)
def test_a_broken_instance_is_named(tmp_path, keys, value, message):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    edit_json(folder / "instances.json", *keys, value=value)
    with pytest.raises(DataError, match=rf"instances\.json, {message}"):
        list(refcoco.read(folder, "train"))


def test_a_missing_picture_is_named(tmp_path):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    edit_json(folder / "instances.json", "images", 0, "file_name", value="no.jpg")
    with pytest.raises(DataError, match=r"ref 0 \(ref_id 50\): 'image_id': expected an image file at .*no\.jpg"):
        next(refcoco.read(folder, "train"))
