"""A few bytes of a pickle cannot stand for much: every axis and all arrays together are bounded by the file's size."""

import io
import pickle
import time

import numpy as np
import pytest

from data.formats import write_npy
from deed.errors import DataError
from deed.utils import unpickle


def shaped(shape, dtype=np.float32, data=b""):
    """An array's pickle with another shape in it."""

    class Faked:
        def __reduce__(self):
            function, arguments, _ = np.zeros((0,), dtype).__reduce__()
            return function, arguments, (1, shape, np.dtype(dtype), False, data)

    return Faked()


@pytest.mark.parametrize(
    "shape",
    [
        (20_000_000, 0),
        (0, 20_000_000),
        (5000, 5000, 0),
        (4097,),
        (2**62, 4),
        (-1,),
        (1.0,),
        (True,),
        "ab",
        (10**400, 0),
        [2, 2],
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, object])
def test_shapes_larger_than_the_file(shape, dtype):
    data = [] if dtype is object else b""
    pickled = pickle.dumps(shaped(shape, dtype, data))
    begin = time.perf_counter()
    with pytest.raises(pickle.UnpicklingError, match=r"array's shape is not|more items than the file has bytes"):
        unpickle.load(io.BytesIO(pickled))
    assert time.perf_counter() - begin < 1


def test_many_arrays_of_the_same_bytes():
    data = b"a" * 10_000
    one = pickle.dumps([shaped((10_000,), np.int8, data)])
    assert len(unpickle.load(io.BytesIO(one))[0]) == 10_000
    with pytest.raises(pickle.UnpicklingError, match=r"an array's shape is not|more items than the file has bytes"):
        unpickle.load(io.BytesIO(pickle.dumps([shaped((10_000,), np.int8, data) for _ in range(100)])))


def test_what_data_sets_hold_is_within_the_bounds():
    words = ["a word"] * 50
    rows = [
        {
            "boxes": np.zeros((50, 4), np.float32),
            "none": np.zeros((0, 4)),
            "bits": np.ones((64, 64), bool),
            "words": words,
        }
        for _ in range(200)
    ]
    loaded = unpickle.load(io.BytesIO(pickle.dumps(rows)))
    assert loaded[199]["boxes"] == [[0.0] * 4] * 50 and loaded[0]["none"] == [] and len(loaded[7]["bits"]) == 64
    assert unpickle.load(io.BytesIO(pickle.dumps(np.zeros((3, 0))))) == [[], [], []]


def test_a_file_says_so(tmp_path):
    path = tmp_path / "imdb_train.npy"
    write_npy(path, [{"boxes": np.zeros((2, 4))}, {"boxes": shaped((20_000_000, 0))}])
    with pytest.raises(
        DataError, match=r"imdb_train\.npy: cannot be read as a numpy array of objects: an array's shape"
    ):
        unpickle.load_objects(path)
