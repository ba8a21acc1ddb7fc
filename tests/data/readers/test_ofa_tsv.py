"""OFA's own tab-separated files."""

import base64
import itertools
import pickle

import pytest

from data.picture_formats import tsv_image, write_tsv
from deed.data.readers import ofa_tsv
from deed.errors import DataError

IMAGE = tsv_image()
VQA = ["79459", "79459", "is this person wearing shorts?", "0.3|!+yes&&0.6|!+no", "house&&short", IMAGE]
REFER = ["79_1", "237367", "front vase", "229.79,126.77,338.22,363.0", IMAGE]
CAPTION = ["162365", "12455", "the sun sets over the trees", "sky&&tree", IMAGE]
SNLI_VE = ["252244149.jpg#1r1n", "252244149", IMAGE, "a man is on earth", "a man in pink", "neutral"]
ROWS = {"vqa": VQA, "refer": REFER, "caption": CAPTION, "snli_ve": SNLI_VE}


def one(path, row, task, **options):
    write_tsv(path / "a.tsv", [row])
    (example,) = ofa_tsv.read(path / "a.tsv", task, **options)
    return example


def test_vqa(tmp_path):
    example = one(tmp_path, VQA, "vqa")
    assert (example.id, example.question) == ("79459", "is this person wearing shorts?")
    assert example.answers == ["no", "yes"]  # the surest first
    assert example.extra == {
        "task": "vqa",
        "confidences": {"no": 0.6, "yes": 0.3},
        "objects": ["house", "short"],
    }
    assert example.image.size == (200, 100) and example.image.mode == "RGB"
    assert example.image.getpixel((100, 50)) == (255, 0, 0)
    # the script's other choice of columns: no objects
    example = one(tmp_path, VQA, "vqa", selected_cols="1,5,2,3")
    assert example.extra["objects"] == []
    assert one(tmp_path, [*VQA[:4], "", IMAGE], "vqa").extra["objects"] == []


def test_refer(tmp_path):
    example = one(tmp_path, REFER, "refer")
    assert (example.id, example.question, example.answers, example.kind) == ("79_1", "front vase", [], "refer")
    assert example.extra == {"task": "refer", "box": (229.79, 126.77, 338.22, 363.0)}


def test_caption(tmp_path):
    example = one(tmp_path, CAPTION, "caption")
    assert (example.id, example.question, example.answers) == ("162365", "", ["the sun sets over the trees"])
    assert (example.kind, example.extra) == ("caption", {"task": "caption"})
    row = [*CAPTION[:2], "the sun&&a tree&&sky", *CAPTION[3:]]
    for columns in ("1,4,2", (1, 4, 2)):
        example = one(tmp_path, row, "caption", selected_cols=columns)
        assert (example.id, example.answers) == ("12455", ["the sun", "a tree", "sky"])


def test_snli_ve(tmp_path):
    example = one(tmp_path, SNLI_VE, "snli_ve")
    assert (example.question, example.answers, example.kind) == ("a man is on earth", ["maybe"], "neutral")
    assert (example.id, example.extra["caption"]) == ("252244149.jpg#1r1n", "a man in pink")


def test_pictures_in_standard_base64_other_modes_or_left_out(tmp_path):
    # a picture whose base64 has both of the characters that differ
    data = next(d for d in map(tsv_image_of, itertools.count()) if "-" in d and "_" in d)
    example = one(tmp_path, [*VQA[:5], data], "vqa")
    standard = data.replace("-", "+").replace("_", "/")
    assert one(tmp_path, [*VQA[:5], standard], "vqa").image.tobytes() == example.image.tobytes()
    assert example.image.mode == "RGB"  # was grey
    assert one(tmp_path, [*VQA[:5], "no picture"], "vqa", images=False).image is None


def tsv_image_of(seed):
    import random
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.frombytes("L", (16, 16), random.Random(seed).randbytes(256)).save(file, "PNG")
    return base64.urlsafe_b64encode(file.getvalue()).decode()


def test_any_example_by_its_place(tmp_path):
    table = [
        [str(i), "7", f"question {i}?", "1.0|!+yes", "", tsv_image("blue" if i == 3 else "red")] for i in range(5)
    ]
    rows = ofa_tsv.rows(write_tsv(tmp_path / "a.tsv", table), "vqa")
    assert len(rows) == 5
    assert [rows[i].question for i in (3, 0, -1)] == ["question 3?", "question 0?", "question 4?"]
    assert rows[3].image.getpixel((0, 0)) == (0, 0, 255)
    assert pickle.loads(pickle.dumps(rows))[2].id == "2"  # for the workers of a DataLoader


@pytest.mark.parametrize(
    ("task", "column", "value", "message"),
    [
        ("vqa", 3, "", r"'answers' \(column 3\): expected one answer or more, got none"),
        ("vqa", 3, "0.6|!+no&&yes", r"\(7\): 'answers' .*expected confidences 0\.\.1 with answers.*, got 'yes'"),
        ("vqa", 3, "x|!+no", r"'answers' .*, got 'x\|!\+no'"),
        ("vqa", 3, "1.5|!+no", r"'answers' .*, got '1\.5\|!\+no'"),
        ("vqa", 3, "nan|!+no", r"'answers' .*, got 'nan\|!\+no'"),
        ("vqa", 3, "0.5|!+", r"'answers' .*, got '0\.5\|!\+'"),
        ("vqa", 0, "", r": 'uniq_id' \(column 0\): expected an id, got nothing"),
        ("vqa", 5, "%%%", r"'image' \(column 5\): expected a picture in url-safe base64, got 3 bytes: "),
        ("vqa", 5, IMAGE[:200], r"'image' .*got 200 bytes: .*image file is truncated"),
        ("vqa", 5, "", r"'image' .*expected a picture in url-safe base64, got nothing"),
        ("refer", 3, "1,2,3", r"'region_coord' \(column 3\): expected x0,y0,x1,y1, got '1,2,3'"),
        ("refer", 3, "1,2,three,4", r"'region_coord' .*: expected x0,y0,x1,y1, got"),
        ("refer", 3, "5,2,3,4", r"'region_coord' .*: expected x0,y0,x1,y1 with x0 <= x1 and y0 <= y1, got '5,2,3,4'"),
        ("refer", 3, "1,2,inf,4", r"'region_coord' .*, got '1,2,inf,4'"),
        ("caption", 2, "", r"'caption' \(column 2\): expected one caption or more, got none"),
        ("snli_ve", 5, "yes", r"'label' \(column 5\): expected one of entailment, neutral, contradiction, got 'yes'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, task, column, value, message):
    row = ["7", *ROWS[task][1:]]
    row[column] = value
    path = write_tsv(tmp_path / "a.tsv", [ROWS[task], row])
    examples = ofa_tsv.read(path, task)
    next(examples)
    with pytest.raises(DataError, match=rf"a\.tsv, line 2.*{message}"):
        next(examples)
    with pytest.raises(DataError, match=rf"a\.tsv, line 2.*{message}"):
        ofa_tsv.rows(path, task)[1]


def test_lines_that_are_too_short_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"line 1 \(79459\): 'image' \(column 5\): expected 6 columns or more, got 5"):
        one(tmp_path, VQA[:5], "vqa")
    (tmp_path / "b.tsv").write_bytes("\t".join(VQA).encode().replace(b"person", b"p\xe9rson"))
    with pytest.raises(
        DataError, match=r"b\.tsv, line 1 .*: 'question' \(column 2\): expected text in UTF-8, got .*0xe9"
    ):
        list(ofa_tsv.read(tmp_path / "b.tsv", "vqa"))


@pytest.mark.parametrize("columns", ["0,5,2", "0,5,2,3,4,1", "0,five,2,3", "0,5,2,-3", (0, 5, None, 3), ""])
def test_columns_that_do_not_fit_the_task(tmp_path, columns):
    path = write_tsv(tmp_path / "a.tsv", [VQA])
    with pytest.raises(
        DataError, match="selected_cols of vqa must be the columns of uniq_id, image, question, answers"
    ):
        ofa_tsv.rows(path, "vqa", columns)


def test_no_such_task_or_file(tmp_path):
    with pytest.raises(DataError, match="task must be one of vqa, refer, caption, snli_ve, got 'ocr'"):
        ofa_tsv.rows(tmp_path / "a.tsv", "ocr")
    with pytest.raises(DataError, match=r"a\.tsv: no such file"):
        ofa_tsv.read(tmp_path / "a.tsv", "vqa")


def test_a_folder_has_a_file_per_split(tmp_path):
    for name in ("refcoco_train", "refcoco_val", "refcoco_testA"):
        write_tsv(tmp_path / f"{name}.tsv", [[name, *REFER[1:]]])
    for split in ("val", "validation", "dev"):
        assert [e.id for e in ofa_tsv.read_split("refer", tmp_path, split)] == ["refcoco_val"]
    assert [e.id for e in ofa_tsv.read_split("refer", tmp_path / "refcoco_testA.tsv", "val")] == ["refcoco_testA"]
    with pytest.raises(DataError, match=r"expected one file \*_test\.tsv, found refcoco_testA\.tsv, refcoco_train"):
        ofa_tsv.read_split("refer", tmp_path, "test")
    write_tsv(tmp_path / "refcocog_val.tsv", [REFER])
    with pytest.raises(DataError, match=r"found refcoco_val\.tsv, refcocog_val\.tsv; give the file itself"):
        ofa_tsv.read_split("refer", tmp_path, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found no \.tsv"):
        ofa_tsv.read_split("refer", tmp_path / "empty", "val")
