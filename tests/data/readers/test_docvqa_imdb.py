"""DocVQA as an imdb, and the pickles that are refused."""

import pickle

import numpy as np
import pytest

from data.formats import write_docvqa, write_imdb, write_npy
from deed.data.readers import docvqa
from deed.errors import DataError
from deed.ocr.words import Word
from deed.utils import unpickle

WORDS = [Word("Number:", (100, 200, 300, 400)), Word("100", (350, 200, 500, 400))]


def test_single_pages(tmp_path):
    examples = list(docvqa.read(write_imdb(tmp_path), "train"))
    assert [e.id for e in examples] == ["1000", "1001", "1002", "1003"]  # the header is none of them
    assert examples[1].answers == ["100"]
    assert examples[1].words == WORDS
    assert examples[1].image == tmp_path / "images" / "train1_p0.png"
    assert [e.answers for e in docvqa.read(tmp_path, "test")] == [[]] * 4
    assert len(list(docvqa.read(tmp_path, "validation"))) == 4
    with pytest.raises(DataError, match=r"no split 'dev'; found test, train, val$"):
        docvqa.read(tmp_path, "dev")


def test_of_many_pages_the_one_with_the_answer(tmp_path):
    examples = list(docvqa.read(write_imdb(tmp_path, pages=3), "train"))
    assert examples[1].words == WORDS
    assert examples[1].image == tmp_path / "images" / "train1_p2.jpg"


def test_json_comes_first(tmp_path):
    write_docvqa(write_imdb(tmp_path))
    assert len(next(docvqa.read(tmp_path, "train")).words) == 6


def rows(tmp_path, **changes):
    """An imdb of two rows, with changes to the second (`...`: without the field)."""
    boxes = [[0.1, 0.2, 0.3, 0.4]]
    row = {"question_id": 7, "question": "?", "answers": ["a"], "image_name": "a"}
    row |= {"ocr_tokens": ["b"], "ocr_normalized_boxes": boxes}
    broken = {key: value for key, value in {**row, **changes}.items() if value is not ...}
    write_npy(tmp_path / "imdb_train.npy", [{"header": 1}, row, broken])
    (tmp_path / "a.png").write_bytes(b"a picture")
    return docvqa.read(tmp_path, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ...}, "'question': expected a string, got no such field"),
        ({"answers": ...}, "'answers': expected a list of one or more strings"),
        (
            {"ocr_normalized_boxes": np.zeros((1, 3))},
            r"'ocr_normalized_boxes\[0\]': expected a list of length 4, got \[0.0, 0.0, 0.0\]",
        ),
        ({"ocr_normalized_boxes": []}, "'ocr_normalized_boxes': expected 1, one per token, got 0"),
        ({"ocr_tokens": [3]}, r"'ocr_tokens\[0\]': expected a string, got 3"),
        ({"image_name": "b"}, r"'image_name': expected an image file at .*b\.jpg or .*b\.png"),
        ({"image_name": ["a", "a"]}, "'answer_page_idx': expected a page, 0 to 1, got None"),
        ({"image_name": ["a"], "answer_page_idx": 1}, "'answer_page_idx': expected a page, 0 to 0, got 1"),
        ({"image_name": ["a", "a"], "answer_page_idx": 1}, "'ocr_tokens': expected an item for each of 2 pages"),
    ],
)
def test_broken_rows_are_named(tmp_path, changes, message):
    examples = rows(tmp_path, **changes)
    assert next(examples).words == [Word("b", (100, 200, 300, 400))]
    with pytest.raises(DataError, match=r"imdb_train\.npy, row 2 \(question 7\).*" + message):
        next(examples)


def test_without_a_header_no_question_is_lost(tmp_path):
    rows(tmp_path)
    array = np.load(tmp_path / "imdb_train.npy", allow_pickle=True)
    write_npy(tmp_path / "imdb_train.npy", list(array[1:]))
    assert len(list(docvqa.read(tmp_path, "train"))) == 2


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    """The pickle would create a file; without the refusal (numpy's own loader) it does."""
    target = tmp_path / "made"
    write_npy(tmp_path / "imdb_train.npy", [{"question": Evil(target)}])
    with pytest.raises(DataError, match=r"imdb_train\.npy: cannot be read .* it refers to _?io\.open, .*; refused"):
        list(docvqa.read(tmp_path, "train"))
    assert not target.exists()
    np.load(tmp_path / "imdb_train.npy", allow_pickle=True)
    assert target.exists()


NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


def dtype(spec: bytes, state: bytes) -> bytes:
    return b"cnumpy\ndtype\n(V" + spec + b"\nI0\nI1\ntR" + state


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        # an array of objects whose dtype says that it holds none: numpy would take the bytes for pointers
        (
            NDARRAY + b"(I1\n(I1\nt" + dtype(b"O8", b"(I3\nV|\nNNNI-1\nI-1\nI0\ntb") + b"I00\nVAAAAAAAA\ntb.",
            None,
        ),
        # the state of a function that the pickle may call
        (b"cnumpy\ndtype\n}V__call__\nI1\nsb.", "it changes a function; refused"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "expected bytes written as latin1"),
        (dtype(b"V8", b"") + b".", "expected arrays of numbers, strings or objects, got dtype 'V8'"),
        (b"cnumpy\ndtype\n.", "expected data, got a type"),
        (b"cbuiltins\neval\n(V1+1\ntR.", r"it refers to builtins\.eval"),
        (b"c__builtin__\neval\n(V1+1\ntR.", r"it refers to builtins\.eval"),
        (b"cdeed.tasks.unpickle\npickle\n.", r"it refers to deed\.tasks\.unpickle\.pickle"),
        (b"cnumpy.core.multiarray\n_reconstruct.__call__\n.", "it refers to"),
    ],
)
def test_pickles_by_hand(tmp_path, pickled, message):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickled)
    with path.open("rb") as file:
        if message is None:  # the eight characters are objects to us, and too many
            with pytest.raises(ValueError, match="cannot reshape"):
                unpickle.load(file)
        else:
            with pytest.raises(pickle.UnpicklingError, match=message):
                unpickle.load(file)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_through(tmp_path, protocol):
    shared = ["x"]
    value = {
        "strings": ("ä", "", shared, shared),
        "numbers": [1, -(2**70), 1.5, True, None, np.float32(0.5), np.int64(3), np.str_("é"), np.bool_(True)],
        "sets": [{1}, frozenset({2})],
        "arrays": [
            np.arange(6, dtype=">i2").reshape(2, 3),
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.array(["a", "bcd"]),
            np.zeros((0, 4), np.float32),
            np.array([[{"a": 1}, None], [[1, 2], "b"]], dtype=object),
        ],
    }
    if protocol == 5:  # numpy hands out-of-band buffers then; np.save never writes that
        value["arrays"] = []
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    with path.open("rb") as file:
        loaded = unpickle.load(file)
    plain = {**value, "arrays": [array.tolist() for array in value["arrays"]]}
    assert loaded == plain
    assert loaded["strings"][2] is loaded["strings"][3]
    assert {type(x) for x in loaded["numbers"]} == {int, float, bool, type(None), str}


def test_files_that_are_not_arrays_of_objects(tmp_path):
    path = tmp_path / "x.npy"
    for array in (np.zeros(3), np.empty((2, 2), dtype=object)):
        np.save(path, array)
        with pytest.raises(DataError, match=r"x\.npy: .* expected a one-dimensional array of objects"):
            unpickle.load_objects(path)
    write_npy(path, [{"a": 1}] * 5)
    whole = path.read_bytes()
    for cut in (0, 5, 60, 130, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.npy: cannot be read as a numpy array of objects: \S"):
            unpickle.load_objects(path)
    with pytest.raises(DataError, match="No such file"):
        unpickle.load_objects(tmp_path / "none.npy")
