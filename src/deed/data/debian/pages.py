"""Pages of the fetched PDFs as text: words, boxes, type sizes and lines, read once from their text layers and kept as JSON."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deed.ocr.text_layer import read_text_layer
from deed.ocr.words import Word
from deed.utils.files import atomic_write

FIRST, OTHERS = 2, 8  # pages of a document that are kept: the first ones, and some of the others
DOCUMENTS = 6  # of a package
LEAST_WORDS, MOST_WORDS = 12, 1200


@dataclass(frozen=True)
class Line:
    """Words of one line, left to right in the order of the page's content.

    Attributes:
        words: with their boxes.
        size: largest type of the line, thousandths of the page's height.
    """

    words: Sequence[Word]
    size: float

    @cached_property
    def text(self) -> str:
        """The words with a space between each two."""
        return " ".join(word.text for word in self.words)

    @property
    def left(self) -> int:
        """Left edge, 0..1000."""
        return min(word.box[0] for word in self.words)

    @property
    def top(self) -> int:
        """Upper edge, 0..1000."""
        return min(word.box[1] for word in self.words)

    @property
    def right(self) -> int:
        """Right edge, 0..1000."""
        return max(word.box[2] for word in self.words)


@dataclass(frozen=True)
class DebianPage:
    """The text of one page.

    Attributes:
        package, document, number, count: where it is from; pages count from 1, `count` is how many the document has.
        words: `[text, x0, y0, x1, y1]` each, boxes on 0..1000, in reading order.
        sizes, lines: type size and line number of each word.
        author, title: what the PDF's own description says; often empty, often wrong.
    """

    package: str
    document: str
    number: int
    count: int
    words: list[list[Any]]
    sizes: list[float]
    lines: list[int]
    title: str = ""
    author: str = ""

    @cached_property
    def page_lines(self) -> list[Line]:
        """The page's lines in reading order."""
        found: list[list[int]] = []
        for i, number in enumerate(self.lines):
            if found and self.lines[found[-1][-1]] == number:
                found[-1].append(i)
            else:
                found.append([i])
        return [Line([self.word(i) for i in line], max(self.sizes[i] for i in line)) for line in found]

    def word(self, i: int) -> Word:
        """Word i."""
        text, *box = self.words[i]
        return Word(text, tuple(box))  # type: ignore[arg-type]

    @property
    def all_words(self) -> list[Word]:
        """Every word."""
        return [self.word(i) for i in range(len(self.words))]


def read_package(folder: Path) -> Iterator[DebianPage]:
    """The kept pages of a fetched package, from its PDFs. Damaged documents and pages without a text layer are left out.
    Which pages are taken depends on the names alone."""
    import pypdfium2

    files = sorted(folder.glob("*.pdf"))
    for path in random.Random(folder.name).sample(files, min(DOCUMENTS, len(files))):
        try:
            document = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError:
            continue
        try:
            count = len(document)
            about = document.get_metadata_dict()
            rest = list(range(FIRST, count))
            chosen = [
                *range(min(FIRST, count)),
                *sorted(random.Random(path.name).sample(rest, min(OTHERS, len(rest)))),
            ]
            for i in chosen:
                try:
                    layer = read_text_layer(document[i])
                except pypdfium2.PdfiumError:
                    continue
                if not layer.covers or not LEAST_WORDS <= len(layer.words) <= MOST_WORDS:
                    continue
                yield DebianPage(
                    folder.name,
                    path.name,
                    i + 1,
                    count,
                    [[_clean(word.text), *word.box] for word in layer.words],
                    [round(size, 1) for size in layer.size],
                    layer.line,
                    _clean(str(about.get("Title", ""))),
                    _clean(str(about.get("Author", ""))),
                )
        finally:
            document.close()


def _clean(text: str) -> str:
    """The text without halves of surrogate pairs, which damaged fonts name and no encoding can write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def load_pages(folder: Path, names: Sequence[str], tick: Callable[[str], None] | None = None) -> Iterator[DebianPage]:
    """Pages of packages, read on first use and kept in `folder/NAME/pages.json.gz`.

    Args:
        folder: where `packages.fetch` put them.
        names: of packages; one that is not there is passed over.
        tick: called with each name when its pages have been given.
    """
    for name in names:
        kept = folder / name / "pages.json.gz"
        if not (folder / name).is_dir():
            continue
        if not kept.exists():
            rows = [asdict(page) for page in read_package(folder / name)]
            with atomic_write(kept) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
                json.dump(rows, file, ensure_ascii=False)
        with gzip.open(kept, "rt", encoding="utf-8") as file:
            yield from (DebianPage(**row) for row in json.load(file))
        if tick is not None:
            tick(name)
