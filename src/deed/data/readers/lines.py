"""Files with one example per line (jsonl, tsv): read one after the other, or any of them by its place in the file.

To get at the n-th example, its line's byte offset is looked up: these are collected in one pass over the file when
first asked for (8 bytes a line), and the file itself is never in memory.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

from deed.errors import DataError

from ..base import Example
from .reading import Examples

Parse = Callable[[bytes, str], Example]


class Rows(Sequence[Example]):
    """The examples of a file, each read when it is asked for; blank lines are passed over.

    Reading leaves no file open and changes nothing but the offsets, so threads may share one and processes (the
    workers of a `DataLoader`) get their own by pickling.

    Args:
        path: the file.
        parse: turns a line without its end, and `"FILE, line N"` for errors, into an example.

    Raises:
        DataError: no such file (at once); no lines in it; a broken line (when it is reached).
    """

    def __init__(self, path: Path, parse: Parse) -> None:
        self.path = Path(path)
        self._parse = parse
        self._starts: array[int] | None = None  # of the lines that are not blank
        self._blanks: array[int] = array("q")  # how many lines came before each blank one
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")

    def __iter__(self) -> Iterator[Example]:
        return self.examples()

    def examples(self, skip_missing: bool = False) -> Examples:
        """All of them, one after the other; see `Examples` for `skip_missing`."""
        return Examples(self._numbered(), lambda line, where: [self._parse(line, where)], skip_missing)

    def _numbered(self) -> Iterator[tuple[str, bytes]]:
        found = False
        for number, (_, line) in enumerate(self._lines(), 1):
            if text := line.rstrip(b"\r\n"):
                found = True
                yield f"{self.path}, line {number}", text
        if not found:
            raise DataError(f"{self.path}: expected one line or more, found none")

    def __len__(self) -> int:
        return len(self._offsets())

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        starts = self._offsets()
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(starts)))]
        at = index + len(starts) if index < 0 else index
        if not 0 <= at < len(starts):
            raise IndexError(f"no example {index} of {len(starts)} in {self.path}")
        try:
            with self.path.open("rb") as file:
                file.seek(starts[at])
                line = file.readline()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None
        number = at + 1 + bisect_right(self._blanks, at)
        return self._parse(line.rstrip(b"\r\n"), f"{self.path}, line {number}")

    def _offsets(self) -> array[int]:
        if self._starts is None:
            starts, blanks = array("q"), array("q")
            for offset, line in self._lines():
                if line.rstrip(b"\r\n"):
                    starts.append(offset)
                else:
                    blanks.append(len(starts))
            self._blanks, self._starts = blanks, starts
        return self._starts

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        offset = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    yield offset, line
                    offset += len(line)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None
