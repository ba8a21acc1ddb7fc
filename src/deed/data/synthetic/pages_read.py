"""The pages data set as the OCR engine reads it: drawn, read (results cached on disk), asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deed.errors import DataError
from deed.ocr import OcrResult, default_cache, read_page
from deed.utils.progress import SILENT_BAR, Bar

from ..base import Example
from . import pages


def read_pages(
    split: str,
    count: int | None = None,
    cache: Path | bool | None = None,
    bar: Bar = SILENT_BAR,
) -> Iterator[tuple[list[Example], OcrResult]]:
    """Page by page: its questions, each with the page's picture and the words read from it, and the reading itself.

    Args:
        split: of `pages.SPLITS`.
        count: only the first so many pages.
        cache: folder for OCR results; None: the default one; False: read anew.
        bar: advanced by one after each page.

    Raises:
        DataError: no such split.
    """
    if split not in pages.SPLITS:
        raise DataError(f"pages have no split {split!r}; there are {', '.join(pages.SPLITS)}")
    folder = default_cache() if cache is None or cache is True else cache
    for index in range(min(count or pages.SPLITS[split], pages.SPLITS[split])):
        image = pages.image_of(split, index)
        result = read_page(image, cache=folder)
        asked = [replace(example, image=image) for example in pages.examples_of(split, index, result.words)]
        bar.advance()
        yield asked, result


def read_split(split: str, count: int | None = None, bar: Bar = SILENT_BAR) -> Iterator[Example]:
    """The questions of a split's pages, pictures included (so take what you need of each and let it go).

    Args:
        split: `train`, `validation`, …
        count: of pages; None: all there are.
        bar: as for `read_pages`.
    """
    for asked, _ in read_pages(split, count, bar=bar):
        yield from asked
