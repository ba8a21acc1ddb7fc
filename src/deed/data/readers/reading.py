"""What the readers share: JSON too big to load at once, fields that are checked, errors that say where.

A reader turns a data set's files into `Example`s one at a time and stops at the first entry that is broken, with a
`DataError` that names file, entry and field and what was expected there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.ocr.words import Word


class Entry:
    """A JSON object that is read field by field.

    Attributes:
        where: file and entry, as errors give it.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object, got {_show(value)}")
        self._value = value
        self.where = where

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(name) is not None

    def wrong(self, name: str, expected: str) -> DataError:
        """The error for a field that is missing or not what it should be."""
        got = _show(self._value[name]) if name in self._value else "no such field"
        return DataError(f"{self.where}: {name!r}: expected {expected}, got {got}")

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def id(self, name: str) -> str:
        """An id, which data sets write as a number or a string."""
        value = self._value.get(name)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            raise self.wrong(name, "a number or a string")
        return str(value)

    def integer(self, name: str) -> int:
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "a whole number")
        return value

    def number(self, name: str) -> float:
        value = self._value.get(name)
        if not _is_number(value):
            raise self.wrong(name, "a number")
        return float(value)  # type: ignore[arg-type]

    def numbers(self, name: str, count: int) -> list[float]:
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) != count or not all(map(_is_number, value)):
            raise self.wrong(name, f"a list of {count} numbers")
        return value

    def array(self, name: str) -> list[Any]:
        value = self._value.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._value.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(x, str) for x in value):
            raise self.wrong(name, "a list of one or more strings")
        return value

    def answers(self, is_test: bool) -> list[str]:
        """The field `answers`; `[]` where a test split has none."""
        if is_test and not self._value.get("answers"):
            return []
        return self.texts("answers")

    def entry(self, name: str) -> Entry:
        if not isinstance(self._value.get(name), dict):
            raise self.wrong(name, "an object")
        return Entry(self._value[name], f"{self.where}, {name}")

    def entries(self, name: str) -> Iterator[Entry]:
        """The objects of a list."""
        for i, value in enumerate(self.array(name)):
            yield Entry(value, f"{self.where}, {name}[{i}]")


def data_entries(path: Path) -> Iterator[Entry]:
    """The entries of a file `{"data": [{…}, …], …}`, one at a time (ijson; the file is never in memory at once).

    Raises:
        DataError: no such file, not JSON, cut short (after the entries before the cut), or no such list.
    """
    for i, value in stream(
        path, lambda ijson, f: enumerate(ijson.items(f, "data.item", use_float=True)), '"data": […]'
    ):
        yield Entry(value, f"{path}, entry {i}")


def object_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """Keys and entries of a file `{"key": {…}, …}`, one at a time; raises as `data_entries`."""
    for key, value in stream(path, lambda ijson, f: ijson.kvitems(f, "", use_float=True), '"image id": {…}'):
        yield key, Entry(value, f"{path}, entry {key}")


def stream(path: Path, items: Callable[[Any, Any], Any], expected: str) -> Iterator[tuple[Any, Any]]:
    try:
        import ijson
    except ImportError:
        raise DataError("big JSON files are read with ijson, which is not installed: pip install ijson") from None
    found = False
    try:
        with path.open("rb") as file:
            for item in items(ijson, file):
                found = True
                yield item
    except ijson.JSONError as error:
        # Which error class it is does not tell cut short from broken: ijson's parsers differ there.
        reason = re.split(r"\n|\\n", str(error).removeprefix("b'"))[0].strip()
        raise DataError(f"{path}: not valid JSON, or cut short ({reason}); get the file again") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not found:
        raise DataError(f"{path}: expected {{{expected}}} with one entry or more, found none")


def find_split(
    data: Path, split: str, patterns: Sequence[str], derived: Mapping[str, str] | None = None
) -> tuple[str, Path]:
    """The file of a split, and the split's name as the file has it (`val` and `validation` are the same).

    Args:
        data: the data set's folder.
        patterns: paths in it with `{split}` for the name, the preferred first.
        derived: splits that are taken out of another's file: `{"validation": "train"}`.

    Raises:
        DataError: no such folder; none of the files; or none for this split, with the names there are.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; looked for {patterns[0]} in it")
    names = [split, {"val": "validation", "validation": "val"}.get(split, split)]
    names += [derived[name] for name in names if derived and name in derived]
    for name in names:
        for pattern in patterns:
            path = data / pattern.format(split=name)
            if path.is_file():
                return name, path
    found = {name for pattern in patterns for name in _names(data, pattern)}
    if not found:
        raise DataError(f"{data}: no {' or '.join(patterns)} in this folder")
    found |= {name for name, source in (derived or {}).items() if source in found}
    raise DataError(f"{data}: no split {split!r}; found {', '.join(sorted(found))}")


def _names(data: Path, pattern: str) -> Iterator[str]:
    first, *rest = pattern.split("{split}")
    shape = re.compile(re.escape(first) + "([^/]+)" + r"\1".join(map(re.escape, rest)))
    for path in data.glob(pattern.format(split="*")):
        if match := shape.fullmatch(path.relative_to(data).as_posix()):
            yield match[1]


def existing_image(candidates: Sequence[Path], where: str, field: str) -> Path:
    """The first of the paths that is a file; it is not opened.

    Raises:
        DataError: none is.
    """
    for path in candidates:
        if os.path.isfile(path):  # False also for names that no file system takes
            return path
    raise DataError(f"{where}: {field!r}: expected an image file at {' or '.join(map(str, candidates))}, found none")


def words_at(text: str, box: tuple[int, int, int, int]) -> list[Word]:
    """A recognised piece of text as words: most are one, some hold spaces, a few are blank."""
    return [Word(part, box) for part in text.split()]


def bucket(text: str, buckets: int = 1000) -> int:
    """`0..buckets - 1`, fixed by the text's SHA-256: for splits that are the same everywhere."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % buckets


def _is_number(value: Any) -> bool:
    # The bounds leave out nan, infinity and whole numbers that no float holds.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
