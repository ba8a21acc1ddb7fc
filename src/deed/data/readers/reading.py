"""What the readers share: JSON too big to load at once, typed entries, errors that say where (files: locating.py).

A reader declares the fields of its entries as `msgspec.Struct`s and turns each entry into `Example`s, one at a time. It stops
at the first entry that is broken, with a `DataError` that names file, entry and field and what was expected there.
"""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from deed.errors import DataError, MissingPictureError, SkippedPictures
from deed.ocr.words import Word

from ..base import Example

# Types of fields. The bounds leave out nan, infinity and whole numbers that no float or text holds.
Id = Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Whole = Annotated[int, Meta(ge=0, le=10**12)]
Texts = Annotated[list[str], Meta(min_length=1)]
Box = tuple[Number, Number, Number, Number]

Entries = Iterable[tuple[str, Any]]  # each with its place in the file, as errors give it
LONGEST = 1000  # characters of what an error says was expected
DEEPEST = 5000  # brackets within brackets
# msgspec's names of types in an error, and ours.
_NAMES = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}
_NAMES |= {"object": "an object", "int | str": "a number or a string", "null": "null"}
_SKIP = "to leave out what has no picture, pass skip_missing=True (--skip-missing)"


class Entry(msgspec.Struct):
    """What is read of a JSON object. Other fields are passed over.

    Attributes:
        named: how errors call such an entry, and the field with its id: `("question", "questionId")`.
    """

    named: ClassVar[tuple[str, str] | None] = None


Kind = TypeVar("Kind", bound=Entry)


class Examples(Iterator[Example]):
    """The examples of a split, in the file's order, one at a time.

    Args:
        entries: what is in the file.
        parse: turns an entry and its place into examples; none where it is of another split.
        skip_missing: leave out the entries whose picture is missing, count them, and say at the end how many they were.

    Attributes:
        skipped: entries left out so far.

    Raises:
        DataError: an entry is broken (when it is reached).
        MissingPictureError: a picture is missing, and `skip_missing` is not given.
    """

    def __init__(
        self, entries: Entries, parse: Callable[[Any, str], Iterable[Example]], skip_missing: bool = False
    ) -> None:
        self.skipped = 0
        self._found = self._read(entries, parse, skip_missing)

    def __next__(self) -> Example:
        return next(self._found)

    def _read(
        self, entries: Entries, parse: Callable[[Any, str], Iterable[Example]], skip_missing: bool
    ) -> Iterator[Example]:
        first = ""
        for where, value in entries:
            try:
                found = list(parse(value, where))
            except MissingPictureError as error:
                if not skip_missing:
                    raise MissingPictureError(f"{error}; {_SKIP}") from None
                first = first or str(error)
                self.skipped += 1
                continue
            yield from found
        if self.skipped:
            warnings.warn(
                f"{self.skipped} entries whose picture is missing were left out; the first: {first}",
                SkippedPictures,
                stacklevel=2,
            )


def read_entry(value: Any, kind: type[Kind], where: str) -> tuple[str, Kind]:
    """An entry as the struct that says what its fields are, and its place with its id.

    Args:
        value: what the JSON holds.
        kind: the struct.
        where: file and entry, as errors give it.

    Raises:
        DataError: a field is missing or not what it should be; names it and says what was expected.
    """
    label, field = kind.named or ("", "")
    found = value.get(field) if isinstance(value, dict) else None
    if isinstance(found, (str, int)) and not isinstance(found, bool) and found != "":
        where += f" ({label} {show(found).strip(chr(39))})"
    try:
        entry = msgspec.convert(value, kind)
        msgspec.json.encode(entry)  # lone surrogates, which JSON can hold and no tokenizer takes
        return where, entry
    except msgspec.ValidationError as error:
        raise _explained(value, kind, str(error), where) from None
    except UnicodeEncodeError:
        raise DataError(f"{where}: {_not_unicode(value)!r}: expected valid Unicode") from None


def wrong(where: str, field: str, expected: str, got: Any) -> DataError:
    """The error for a field whose value is of the right type and wrong all the same.

    Args:
        where: file and entry.
        field: its name.
        expected: what should be there.
        got: what is there.
    """
    if len(expected) > LONGEST:  # places made of a name that is endless
        expected = f"{expected[:LONGEST]}…"
    return DataError(f"{where}: {field!r}: expected {expected}, got {show(got)}")


def show(value: Any) -> str:
    """A value as errors show it, shortened."""
    try:
        return _SHORT.repr(value)
    except Exception:  # whole numbers too long to print, objects whose repr fails
        return f"a value of type {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 2


class _Nothing:
    """Stands for a field that is missing, so that the error says what was expected there."""

    def __repr__(self) -> str:
        return "no such field"


def _explained(value: Any, kind: type[Entry], message: str, where: str) -> DataError:
    """msgspec's error ("Expected `str`, got `int` - at `$.words[1].text`") in our words."""
    told, _, path = message.partition(" - at `$")
    got = value
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        got = got[name] if name else got[int(index)]
    if missing := re.fullmatch("Object missing required field `(.+)`", told):
        got[missing[1]] = _Nothing()
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            return _explained(value, kind, str(error), where)
        finally:
            del got[missing[1]]
    *parents, field = re.findall(r"\w+(?:\[\d+\])*|^(?:\[\d+\])+", path) or [""]
    place = ", ".join([where, *parents]) + (f": {field!r}" if field else "")
    expected = re.sub("`(.+?)( \\| null)?`", lambda name: _NAMES.get(name[1], name[1]), told.split(", got ")[0])
    expected = expected.removeprefix("Expected ").replace("> 0.0", "above 0")
    expected = re.sub(r" [<>]= -?\d{16,}(\.0)?$|^Number out of range$", " within range", expected).strip()
    return DataError(f"{place}: expected {expected}, got {show(got)}")


def answers_of(answers: list[str] | None, is_test: bool, where: str) -> list[str]:
    """An entry's field `answers`, of which there is one or more but in test splits.

    Args:
        answers: what was read; None where there is no such field.
        is_test: whether it is a test split.
        where: file and entry.

    Raises:
        DataError: there is none.
    """
    if not answers and not is_test:
        raise wrong(where, "answers", "a list of one or more strings", _Nothing() if answers is None else answers)
    return answers or []


def list_entries(path: Path, name: str, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """The entries of a list in a file `{"NAME": [{…}, …], …}`, one at a time (ijson; the file is never in memory at once).

    Args:
        path: the file.
        name: the list's.
        kind: what the entries are.

    Raises:
        DataError: no such file, not JSON, cut short (after the entries before the cut), no such list, or a broken entry.
    """
    items = stream(path, lambda ijson, f: enumerate(ijson.items(f, f"{name}.item", use_float=True)), f'"{name}": […]')
    for i, value in items:
        yield read_entry(value, kind, f"{path}, {f'entry {i}' if name == 'data' else f'{name}[{i}]'}")


def object_entries(path: Path, kind: type[Kind]) -> Iterator[tuple[str, tuple[str, Kind]]]:
    """Keys and entries of a file `{"key": {…}, …}`, one at a time; raises as `list_entries`."""
    for key, value in stream(path, lambda ijson, f: ijson.kvitems(f, "", use_float=True), '"image id": {…}'):
        where, entry = read_entry(value, kind, f"{path}, entry {key}")
        yield where, (key, entry)


def stream(path: Path, items: Callable[[Any, Any], Any], expected: str) -> Iterator[tuple[Any, Any]]:
    """What ijson finds in a file.

    Args:
        path: the file.
        items: given ijson and the open file, pairs of a key or number and a value.
        expected: what errors say should be in it.

    Raises:
        DataError: ijson or the file is missing, the file is not JSON, cut short (after the items before the cut), or has
            no such items.
    """
    try:
        import ijson
    except ImportError:
        raise DataError("big JSON files are read with ijson, which is not installed: pip install ijson") from None
    found = False
    try:
        with path.open("rb") as file:
            for item in items(ijson, _Shallow(path, file, ijson)):
                found = True
                yield item
    # ValueError: numbers of too many digits. Which of ijson's errors it is does not tell cut short from broken.
    except (ijson.JSONError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        reason = re.split(r"\n|\\n", str(error).removeprefix("b'"))[0].strip()
        raise DataError(f"{path}: not valid JSON, or cut short ({reason}); get the file again") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not found:
        raise DataError(f"{path}: expected {{{expected}}} with one entry or more, found none")


class _Shallow:
    """An open JSON file that is not nested too deeply. ijson keeps the path to each open bracket, whose length grows with the
    depth: a hundred thousand brackets, a file of 100 kB, take 25 GB."""

    def __init__(self, path: Path, file: IO[bytes], ijson: Any) -> None:
        self._path, self._file, self._ijson = path, file, ijson
        self._open = 0.0  # brackets, those inside strings among them

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, 1 << 14) if size >= 0 else size)
        opened = data.count(b"[") + data.count(b"{")
        if self._open + opened > DEEPEST:
            self._count()
            self._open = -math.inf  # the whole file is counted
        self._open += opened - data.count(b"]") - data.count(b"}")
        return data

    def _count(self) -> None:
        """The depth itself, for which nothing is kept."""
        depth = 0
        with self._path.open("rb") as file:
            for event, _ in self._ijson.basic_parse(file, use_float=True):
                depth += event.startswith("start_") - event.startswith("end_")
                if depth > DEEPEST:
                    raise DataError(
                        f"{self._path}: lists and objects nested more than {DEEPEST} deep; get the file again"
                    )


def words_at(text: str, box: tuple[int, int, int, int]) -> list[Word]:
    """A recognized piece of text as words: most are one, some hold spaces, a few are blank."""
    return [Word(part, box) for part in text.split()]


def bucket(text: str, buckets: int = 1000) -> int:
    """`0..buckets - 1`, fixed by the text's SHA-256: for splits that are the same everywhere."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % buckets


def _not_unicode(value: Any) -> str:
    """The field whose text cannot be encoded, or whose name cannot."""
    left = [("", value)]
    while left:
        name, part = left.pop()
        if not _encodable(name) or (isinstance(part, str) and not _encodable(part)):
            return name
        if isinstance(part, dict):
            left += part.items()
        elif isinstance(part, list):
            left += [(name, item) for item in part]
    return ""


def _encodable(text: Any) -> bool:
    try:
        return bool(str(text).encode()) or True
    except UnicodeEncodeError:
        return False
