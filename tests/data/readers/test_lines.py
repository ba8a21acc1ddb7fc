"""Files with one example per line."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from deed.data.base import Example
from deed.data.readers.lines import Rows
from deed.errors import DataError


def parse(line, where):
    if line == b"broken":
        raise DataError(f"{where}: broken")
    return Example(line.decode(), [], id=where.rsplit(" ", 1)[1])


def rows(path, content):
    path.write_bytes(content)
    return Rows(path, parse)


CONTENT = b"first\n\nsecond \xc3\xa9\t\r\n\r\n\n  \nlast"  # blank lines, both line ends, none at the end


def test_in_order_and_by_place_are_the_same(tmp_path):
    found = rows(tmp_path / "a.txt", CONTENT)
    assert [(e.question, e.id) for e in found] == [("first", "1"), ("second é\t", "3"), ("  ", "6"), ("last", "7")]
    assert len(found) == 4
    assert [found[i] for i in range(4)] == list(found) == found[:]
    assert found[-1] == found[3]
    assert found[3:0:-2] == [found[3], found[1]]
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"no example {index} of 4"):
            found[index]


def test_one_example_is_read_at_a_time(tmp_path):
    found = rows(tmp_path / "a.txt", b"a\nbroken\nc\n")
    examples = iter(found)
    assert next(examples).question == "a"
    with pytest.raises(DataError, match=r"a\.txt, line 2: broken"):
        next(examples)
    # nothing but the line asked for is looked at
    assert (len(found), found[2].question) == (3, "c")
    with pytest.raises(DataError, match=r"a\.txt, line 2: broken"):
        found[1]


def test_only_the_line_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    found = rows(path, b"x" * 1000 + b"\n" + b"y\n" * 10)
    assert len(found) == 11
    path.write_bytes(b"?" * 1001 + b"z\n" * 10)  # offsets are kept: the file is not gone through again
    assert found[5].question == "z"


def test_pickled_and_shared_by_threads(tmp_path):
    found = rows(tmp_path / "a.txt", b"".join(b"line %d\n" % i for i in range(200)))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.__getitem__, range(200))) == list(found)
    for copy in (pickle.loads(pickle.dumps(found)), pickle.loads(pickle.dumps(Rows(found.path, parse)))):
        assert copy[150] == found[150]


def test_no_file_or_no_lines(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        Rows(tmp_path / "none.txt", parse)
    empty = rows(tmp_path / "a.txt", b"\n\r\n")
    assert len(empty) == 0
    with pytest.raises(DataError, match=r"a\.txt: expected one line or more, found none"):
        list(empty)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt: No such file"):
        list(empty)
