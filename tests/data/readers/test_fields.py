"""Every field of every data set, with whatever a file may hold in its place: an example of the right types, or a DataError
that names file and field; never another exception, never a wrong value taken in silence."""

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.formats import write_docvqa, write_imdb, write_npy, write_ocrvqa, write_stvqa, write_textvqa
from data.picture_formats import (
    coco_refs,
    write_coco_captions,
    write_karpathy,
    write_refcoco,
    write_snli_ve,
    write_tsv,
    write_vqav2,
)
from data.tiny_ofa import write_ofa_tsv
from deed.data.base import Example
from deed.data.readers import (
    coco_captions,
    docvqa,
    docvqa_imdb,
    ocrvqa,
    ofa_tsv,
    refcoco,
    snli_ve,
    stvqa,
    textvqa,
    vqav2,
)
from deed.errors import DataError, MissingPictureError
from deed.ocr.words import Word


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 2**63, -(2**70), 10**400, 1e300, -1e16, 5e-324, "", " ", "\ud800", "\0", "a" * 5000, "../x"]
    ),
    st.sampled_from(
        [[], {}, nested(300), [None], [[]], [{}], {"a": nested(50)}, [1, 2, 3, 4], ["a", None], [[1e300] * 8]]
    ),
    st.floats(),
    st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda x: st.lists(x, max_size=4), max_leaves=6),
)
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def check(example):
    assert isinstance(example, Example)
    assert isinstance(example.question, str) and isinstance(example.id, str) and example.id
    assert isinstance(example.kind, str) and isinstance(example.answers, list)
    assert all(isinstance(answer, str) for answer in example.answers)
    "".join([example.question, *example.answers]).encode()
    assert not isinstance(example.image, Path) or example.image.is_file()
    for word in example.words:
        assert isinstance(word, Word) and word.text and not word.text.isspace()
        assert all(type(edge) is int and 0 <= edge <= 1000 for edge in word.box)
        assert word.box[0] <= word.box[2] and word.box[1] <= word.box[3]


def outcome(examples, path, field):
    """All examples are right, or a DataError says where: file, and field (or an id that was asked for elsewhere)."""
    try:
        found = list(examples())
    except MissingPictureError as error:  # told by where it was looked for
        assert "expected an image file at" in str(error) or "got nothing" in str(error)
        return
    except DataError as error:
        message = str(error)
        assert path.name in message and "\n" not in message
        assert len(message) < 3000
        assert field in message or "not valid JSON" in message or "no split" in message, message
        return
    for example in found:
        check(example)


# Data set: how it is written and read, its file, the way to the entry, and the fields that are read.
SETS = {
    "docvqa": (
        write_docvqa,
        docvqa.read,
        "train_v1.0_withQT.json",
        ["data", 1],
        ["questionId", "question", "image", "ucsf_document_id", "ucsf_document_page_no", "answers", "question_types"],
    ),
    "docvqa ocr": (
        write_docvqa,
        docvqa.read,
        "ocr_results/trnp0000_7.json",
        ["recognitionResults", 0],
        ["width", "height", "lines"],
    ),
    "docvqa words": (
        write_docvqa,
        docvqa.read,
        "ocr_results/trnp0000_7.json",
        ["recognitionResults", 0, "lines", 0, "words", 1],
        ["text", "boundingBox"],
    ),
    "textvqa": (
        write_textvqa,
        textvqa.read,
        "TextVQA_0.5.1_train.json",
        ["data", 1],
        ["question_id", "image_id", "question", "answers"],
    ),
    "textvqa ocr": (
        write_textvqa,
        textvqa.read,
        "TextVQA_Rosetta_OCR_v0.2_train.json",
        ["data", 1, "ocr_info", 1],
        ["word", "bounding_box"],
    ),
    "textvqa boxes": (
        write_textvqa,
        textvqa.read,
        "TextVQA_Rosetta_OCR_v0.2_train.json",
        ["data", 1, "ocr_info", 1, "bounding_box"],
        ["top_left_x", "top_left_y", "width", "height"],
    ),
    "stvqa": (
        write_stvqa,
        stvqa.read,
        "train_task_3.json",
        ["data", 1],
        ["question_id", "dataset", "file_name", "file_path", "question", "answers"],
    ),
    "ocrvqa": (
        write_ocrvqa,
        ocrvqa.read,
        "dataset.json",
        ["100001"],
        ["split", "questions", "answers", "imageURL"],
    ),
    "vqav2": (
        write_vqav2,
        vqav2.read,
        "v2_OpenEnded_mscoco_train2014_questions.json",
        ["questions", 1],
        ["question_id", "image_id", "question"],
    ),
    "vqav2 annotations": (
        write_vqav2,
        vqav2.read,
        "v2_mscoco_train2014_annotations.json",
        ["annotations", 1],
        ["question_id", "question_type", "answer_type", "multiple_choice_answer", "answers"],
    ),
    "captions": (
        write_coco_captions,
        coco_captions.read,
        "annotations/captions_train2014.json",
        ["annotations", 1],
        ["image_id", "caption"],
    ),
    "captioned": (
        write_coco_captions,
        coco_captions.read,
        "annotations/captions_train2014.json",
        ["images", 1],
        ["id", "file_name"],
    ),
    "karpathy": (
        write_karpathy,
        coco_captions.read,
        "dataset_coco.json",
        ["images", 1],
        ["split", "cocoid", "filepath", "filename", "sentences"],
    ),
    "instances": (
        lambda folder: write_refcoco(folder, pickle.dumps(coco_refs())),
        refcoco.read,
        "instances.json",
        ["annotations", 1],
        ["id", "bbox"],
    ),
    "pictures": (
        lambda folder: write_refcoco(folder, pickle.dumps(coco_refs())),
        refcoco.read,
        "instances.json",
        ["images", 0],
        ["id", "file_name", "width", "height"],
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_json(tmp_path, name):
    write, read, file, keys, fields = SETS[name]
    folder = write(tmp_path)
    path = folder / file
    whole = json.loads(path.read_text())

    @FEW
    @given(st.sampled_from(fields), VALUES | st.just(...))
    def fuzz(field, value):
        content = copy.deepcopy(whole)
        entry = content
        for key in keys:
            entry = entry[key]
        if value is ...:
            del entry[field]
        else:
            entry[field] = value
        path.write_text(json.dumps(content))
        # A wrong id is told where it is looked for, by the name that it has there.
        by_id = field in ("id", "image_id", "question_id")
        outcome(lambda: read(folder, "train"), Path(".json" if by_id else path.name), "id" if by_id else field)

    fuzz()


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("docvqa ocr", "docvqa words")])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"data": ["\ud800"]}', "1" * 5000, "", "null", "\0", '{"data": [[]]}']
)
def test_files_that_are_not_the_data(tmp_path, name, text):
    write, read, file, _, _ = SETS[name]
    folder = write(tmp_path)
    (folder / file).write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DataError, match=Path(file).stem.replace(".", r"\.")):
        list(read(folder, "train"))


@pytest.mark.parametrize("name", SETS)
def test_numbers_of_thousands_of_digits(tmp_path, name):
    write, read, file, keys, fields = SETS[name]
    folder = write(tmp_path)
    content = json.loads((folder / file).read_text())
    entry = content
    for key in keys:
        entry = entry[key]
    entry[fields[0]] = "HERE"
    (folder / file).write_text(json.dumps(content).replace('"HERE"', "1" * 5000))
    with pytest.raises(DataError, match=Path(file).name.replace(".", r"\.")):
        list(read(folder, "train"))


@FEW
@given(st.sampled_from(["split", "ref_id", "ann_id", "image_id", "sentences"]), VALUES)
def test_refs(tmp_path, field, value):
    refs = coco_refs()
    refs[1][field] = value
    folder = write_refcoco(tmp_path, pickle.dumps(refs))
    outcome(lambda: refcoco.read(folder, "train"), Path("refs(unc).p"), field)


@FEW
@given(
    st.sampled_from(["question_id", "question", "image_name", "ocr_tokens", "ocr_normalized_boxes", "answers"]),
    VALUES | st.builds(lambda n: np.zeros((n, 4)), st.integers(0, 3)),
    st.sampled_from([0, 2]),
)
def test_imdb(tmp_path, field, value, pages):
    folder = write_imdb(tmp_path / str(pages), pages=pages)
    path = folder / ("imdb_train.npy" if pages else "new_imdb_train.npy")
    rows = list(np.load(path, allow_pickle=True))
    rows[2][field] = value
    write_npy(path, rows)
    try:
        outcome(lambda: docvqa_imdb.read(folder, "train"), path, field)
    except AssertionError as error:
        # Names tell whether a row is one page or a list of pages, and words and boxes go together: either may be blamed.
        assert field in ("image_name", "ocr_tokens", "ocr_normalized_boxes")
        assert re.search("answer_page_idx|image_name|ocr_tokens|ocr_normalized_boxes", str(error))


@FEW
@given(st.sampled_from(["pairID", "Flickr30K_ID", "gold_label", "sentence1", "sentence2"]), VALUES)
def test_lines(tmp_path, field, value):
    folder = write_snli_ve(tmp_path)
    path = folder / "snli_ve_train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), field: value})
    path.write_text("\n".join(lines), encoding="utf-8")
    outcome(lambda: snli_ve.read(folder, "train"), path, field)


COLUMNS = {
    "vqa": {0: "uniq_id", 2: "question", 3: "answers", 4: "objects", 5: "image"},
    "refer": {0: "uniq_id", 2: "text", 3: "region_coord", 4: "image"},
    "caption": {0: "uniq_id", 2: "caption", 4: "image"},
    "snli_ve": {0: "uniq_id", 2: "image", 3: "hypothesis", 4: "caption", 5: "label"},
}


@FEW
@given(
    st.sampled_from([(task, column) for task, columns in COLUMNS.items() for column in columns]),
    st.text(alphabet=st.characters(exclude_characters="\t\n\r", codec="utf-8"), max_size=12)
    | st.sampled_from(["nan|!+a", "inf|!+a", "1e400,0,0,0", "0,0,nan,1", "AAAA", "=", "&&", "0.5|!+a&&", "1" * 5000]),
)
def test_tsv(tmp_path, place, value):
    task, column = place
    path = write_ofa_tsv(tmp_path)[task]
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rows[1][column] = value
    write_tsv(path, rows)
    outcome(lambda: ofa_tsv.read(path, task), path, COLUMNS[task][column])
