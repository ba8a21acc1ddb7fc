"""All pages of a split as a few arrays in one file: 10,000 pages of text take 100 MB, read in a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deed.errors import DataError
from deed.utils.files import atomic_write

from .pages import DebianPage, load_pages


@dataclass(frozen=True)
class PageStore:
    """Pages, taken out one by one.

    Attributes:
        text: all words in UTF-8, one after the other.
        text_ends: where each ends in it, in bytes.
        boxes: `[words, 4]` on 0..1000.
        sizes, lines: type size and line number of each word.
        ends: number of words up to the end of each page.
        about: of each page its package, document, number, count, title and author.
    """

    text: bytes
    text_ends: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    lines: np.ndarray
    ends: np.ndarray
    about: list[list[Any]]

    def __len__(self) -> int:
        return len(self.ends)

    def length(self, index: int) -> int:
        """Words on a page."""
        return int(self.ends[index] - (self.ends[index - 1] if index else 0))

    def page(self, index: int, first: int = 0, count: int | None = None) -> DebianPage:
        """A page, or a run of its words as if they were all of it (without the page's number, unless it begins at the top).

        Args:
            index: of the page.
            first: word at which the run begins.
            count: words of the run; None: to the end.
        """
        start, stop = (int(self.ends[index - 1]) if index else 0) + first, int(self.ends[index])
        stop = stop if count is None else min(stop, start + count)
        begin = int(self.text_ends[start - 1]) if start else 0
        words: list[list[Any]] = []
        for end, box in zip(self.text_ends[start:stop].tolist(), self.boxes[start:stop].tolist(), strict=True):
            words.append([self.text[begin:end].decode(), *box])
            begin = end
        package, document, number, total, title, author = self.about[index]
        sizes, lines = self.sizes[start:stop].tolist(), self.lines[start:stop].tolist()
        number = 0 if first else number
        return DebianPage(package, document, number, total, words, sizes, lines, title, author)


def open_store(path: Path, folder: Path, names: Sequence[str], tick: Callable[[str], None] | None = None) -> PageStore:
    """The store in a file; made of the packages' pages (`load_pages`) if it is not there.

    Args:
        path: the file, `.npz`.
        folder: of the packages.
        names: of packages.
        tick: called with each package's name when its pages have been taken in.

    Raises:
        DataError: none of the packages is there, or a file that is no store.
    """
    if not path.exists():
        _write(path, folder, names, tick)
    try:
        with np.load(path) as file:
            about = json.loads(file["about"].tobytes())
            arrays = {name: file[name] for name in ("text_ends", "boxes", "sizes", "lines", "ends")}
            return PageStore(text=file["text"].tobytes(), about=about, **arrays)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and it is made anew") from None


def _write(path: Path, folder: Path, names: Sequence[str], tick: Callable[[str], None] | None) -> None:
    texts, boxes, sizes, lines, ends, about = [], [], [], [], [], []
    for page in load_pages(folder, names, tick):
        texts += [word[0].encode() for word in page.words]
        boxes += [word[1:] for word in page.words]
        sizes += page.sizes
        lines += page.lines
        ends.append(len(texts))
        about.append([page.package, page.document, page.number, page.count, page.title, page.author])
    if not ends:
        raise DataError(f"{folder} has none of the packages; fetch them first (deed.data.debian.packages.fetch)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            text=np.frombuffer(b"".join(texts), np.uint8),
            text_ends=np.cumsum([len(text) for text in texts]),
            boxes=np.array(boxes, np.int16),
            sizes=np.array(sizes, np.float32),
            lines=np.array(lines, np.int32),
            ends=np.array(ends),
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )


__all__ = ["PageStore", "open_store"]
