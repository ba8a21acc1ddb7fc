"""DocVQA reader: the format as handed out, and what it says of broken data."""

import pytest
from PIL import Image

from data.formats import edit_json, write_docvqa, write_json
from deed.data.readers import docvqa
from deed.errors import DataError
from deed.ocr.words import Word


@pytest.fixture
def folder(tmp_path):
    return write_docvqa(tmp_path / "docvqa")


def test_an_example_in_full(folder):
    examples = list(docvqa.read(folder, "train"))
    assert len(examples) == 4
    example = examples[3]
    assert (example.question, example.id, example.kind) == ("What is number 1?", "1003", "form")
    assert example.answers == ["101", "no. 101"]
    assert example.extra == {"question_types": ["form", "layout"]}
    # of 200 x 100 pixels: x from 20 to 51, y from 10 to 32, the hull of four askew corners
    assert example.words[0] == Word("Number", (100, 100, 255, 320))
    assert [word.text for word in example.words] == ["Number", "0:", "100", "Number", "1:", "101"]
    assert Image.open(example.image).size == (200, 100)


def test_splits(folder):
    assert [e.answers for e in docvqa.read(folder, "test")] == [[]] * 4
    assert {e.kind for e in docvqa.read(folder, "test")} == {""}
    assert list(docvqa.read(folder, "validation")) == list(docvqa.read(folder, "val"))
    with pytest.raises(DataError, match=r"docvqa: no split 'dev'; found test, train, val$"):
        docvqa.read(folder, "dev")  # at once, not at the first example


def test_a_folder_per_split(tmp_path, folder):
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "val")
    assert len(list(docvqa.read(tmp_path / "all", "val"))) == 4
    with pytest.raises(DataError, match=r"no split 'dev'; found val$"):
        docvqa.read(tmp_path / "all", "dev")


def test_question_types_are_preferred(folder):
    write_json(folder / "train_v1.0.json", {"data": []})
    assert next(docvqa.read(folder, "train")).kind == "form"


def test_missing_data(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; looked for \{split\}_v1.0"):
        docvqa.read(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"no \{split\}_v1.0_withQT.json or .* in this folder"):
        docvqa.read(tmp_path, "train")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("questionId", ..., r"'questionId': expected a number or a string, got no such field"),
        ("questionId", True, "'questionId': expected a number or a string, got True"),
        ("question", 3, r"\(question 1001\): 'question': expected a string, got 3"),
        ("answers", ..., r"'answers': expected a list of one or more strings, got no such field"),
        ("answers", [], r"'answers': expected a list of one or more strings, got \[\]"),
        ("answers", "one", r"'answers': expected a list, got 'one'"),
        (
            "image",
            "documents/gone.png",
            r"'image': expected an image file at .*gone\.png or in \d+ other places, found none",
        ),
        ("image", "x" * 5000, r"'image': expected an image file at .*, found none"),
        ("ucsf_document_page_no", "8", r"'ucsf_document_page_no': expected the page's OCR .* at .*trnp0000_8\.json"),
        ("question_types", "form", "'question_types': expected a list"),
    ],
)
def test_a_broken_entry_is_named_after_the_ones_before_it(folder, field, value, message):
    edit_json(folder / "train_v1.0_withQT.json", "data", 1, field, value=value)
    examples = docvqa.read(folder, "train")
    assert next(examples).id == "1000"
    with pytest.raises(DataError, match=r"train_v1\.0_withQT\.json, entry 1.*" + message):
        next(examples)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ["boundingBox"],
            [1, 2, 3, 4],
            r"words\[1\]: 'boundingBox': expected a list of length 8, got \[1, 2, 3, 4\]",
        ),
        (["boundingBox"], [1, 2, 3, 4, 5, 6, 7, "8"], r"'boundingBox\[7\]': expected a number, got '8'"),
        (
            ["boundingBox"],
            [1, 2, 3, 4, 5, 6, 7, float("nan")],
            r"'boundingBox\[7\]': expected a number within range, got nan",
        ),
        (["text"], ..., "'text': expected a string, got no such field"),
    ],
)
def test_a_broken_ocr_word_is_named(folder, keys, value, message):
    path = folder / "ocr_results" / "trnp0000_7.json"
    edit_json(path, "recognitionResults", 0, "lines", 1, "words", 1, *keys, value=value)
    with pytest.raises(DataError, match=r"trnp0000_7\.json, recognitionResults\[0\], lines\[1\], .*" + message):
        list(docvqa.read(folder, "train"))


def test_broken_ocr_files(folder):
    path = folder / "ocr_results" / "trnp0000_7.json"
    edit_json(path, "recognitionResults", 0, "width", value=0)
    with pytest.raises(DataError, match="'width': expected a number above 0, got 0"):
        docvqa.read_ocr(path)
    write_json(path, {"status": "Failed"})
    with pytest.raises(DataError, match=r"trnp0000_7\.json: 'recognitionResults': expected a list, got no such field"):
        docvqa.read_ocr(path)
    path.write_text('{"recognitionResults": [')
    with pytest.raises(DataError, match=r"trnp0000_7\.json cannot be read as JSON: "):
        docvqa.read_ocr(path)


def test_words_hold_no_white_space(folder):
    path = folder / "ocr_results" / "trnp0000_7.json"
    for i, text in enumerate((" ", "two words", "one ")):
        edit_json(path, "recognitionResults", 0, "lines", 0, "words", i, "text", value=text)
    words = docvqa.read_ocr(path)
    assert [word.text for word in words[:4]] == ["two", "words", "one", "Number"]
    assert words[0].box == words[1].box


def test_json_cut_short_gives_the_entries_before_the_cut(folder):
    path = folder / "train_v1.0_withQT.json"
    text = path.read_text()
    path.write_text(text[: text.index("1002")])
    examples = docvqa.read(folder, "train")
    assert [next(examples).id, next(examples).id] == ["1000", "1001"]
    with pytest.raises(
        DataError, match=r"train_v1\.0_withQT\.json: not valid JSON, or cut short \(.+\); get the file again$"
    ):
        next(examples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"not valid JSON, or cut short \("),
        ('{"data": [}', r"not valid JSON, or cut short \("),
        ('{"data": []}', r'expected \{"data": \[…\]\} with one entry or more, found none'),
        ("[1, 2]", r'expected \{"data"'),
        ('{"data": [3]}', r"entry 0: expected an object, got 3"),
    ],
)
def test_files_that_are_something_else(folder, text, message):
    (folder / "val_v1.0_withQT.json").write_text(text)
    with pytest.raises(DataError, match=r"val_v1\.0_withQT\.json.*" + message) as caught:
        list(docvqa.read(folder, "val"))
    assert "\n" not in str(caught.value)


def test_a_page_is_read_once_for_its_questions_and_only_when_needed(folder, monkeypatch):
    read = []
    original = docvqa.read_ocr
    monkeypatch.setattr(docvqa, "read_ocr", lambda path: read.append(path.name) or original(path))
    examples = docvqa.read(folder, "train")
    first = next(examples)
    assert read == ["trnp0000_7.json"]
    first.words.clear()  # an example's words are its own
    assert len(next(examples).words) == 6
    assert len(list(examples)) == 2
    assert read == ["trnp0000_7.json", "trnp0001_7.json"]
