"""Pages of PDF files (also compressed, `.pdf.gz`), drawn by PDFium or as their own text, and of TIFFs as images; another image
file is a document of one page.

`open_document` opens the file once, however many pages are taken from it; `page_image`, `page_text` and `page_count` are
for one page.
"""

from __future__ import annotations

import gzip
import io
import itertools
import math
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.utils.images import OCR_PIXELS, check_file, is_pdf, is_tiff, load_image, tiff_page, tiff_pages
from deed.utils.optional import need

from .text_layer import TextLayer, read_text_layer

GZIP = b"\x1f\x8b"
MOST_UNPACKED = 500_000_000  # bytes of a .pdf.gz
DPI = 200  # lower where a page would get more than OCR_PIXELS
_pdfium = threading.Lock()  # PDFium must not be called from two threads


def _pdf_in(source: Path | bytes, head: bytes, name: str, most: int) -> Path | bytes | None:
    """What PDFium opens: the file itself, or what a `.pdf.gz` holds; None for a file of another kind.

    Raises:
        DataError: a damaged or too large `.gz`, or a file that has a PDF's name and is none.
    """
    if is_pdf(head):
        return source
    if head.startswith(GZIP):
        try:
            with gzip.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
                content = file.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{name} is a damaged .gz file: {error}") from None
        if len(content) > most:
            raise DataError(f"{name} holds more than {most // 10**6} MB; unpack it first")
        if not is_pdf(content[:1024]):
            raise DataError(f"{name} is a .gz file that holds no PDF")
        return content
    if isinstance(source, Path) and source.suffix.lower() == ".pdf":
        kind = "text" if _is_text(head) else "another kind of file"
        raise DataError(f"{name} is named .pdf, but it is {kind}: a PDF begins with %PDF-")
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-4].decode("utf-8")  # the last letter may be cut
    except UnicodeDecodeError:
        return False
    return "\0" not in text


class Document:
    """A file of pages; made by `open_document`, and of use as long as its block lasts.

    Attributes:
        path: the file, or what bytes are called.
        count: how many pages it has.
    """

    def __init__(self, path: Path | str, count: int, source: Path | bytes | None = None) -> None:
        self.path, self.count = path, count
        self._source = path if source is None else source

    def image(self, page: int = 1, dpi: float = DPI) -> Any:
        """One page as an RGB image.

        Args:
            page: counted from 1.
            dpi: of a PDF's page, which is drawn smaller where it would get more than 4 megapixels.

        Raises:
            DataError: there is no such page, or it is damaged.
        """
        self.index(page)
        return load_image(self._source)

    def text(self, page: int = 1) -> TextLayer | None:
        """A page's own text, with whether it is all there is to read there; None of a file that is no PDF.

        Args:
            page: counted from 1.

        Raises:
            DataError: there is no such page, or it is damaged.
        """
        return None

    def picture_sizes(self, page: int = 1, most: int = 10_000) -> list[tuple[int, int]]:
        """Width and height in pixels of the pictures on a PDF's page, as it declares them; empty of a file that is no PDF.

        Args:
            page: counted from 1.
            most: objects of the page that are looked at.

        Raises:
            DataError: there is no such page, or it is damaged.
        """
        return []

    def index(self, page: int) -> int:
        """Place of a page that is counted from 1.

        Raises:
            DataError: there is no such page.
        """
        if not 1 <= page <= self.count:
            is_image = type(self) is Document
            pages = "is an image, which has page 1 only" if is_image else f"has pages 1 to {self.count}"
            raise DataError(f"{self.path} {pages}, got page {page}")
        return page - 1


class _Tiff(Document):
    def __init__(self, path: Path | str, source: Path | bytes) -> None:
        self._frames, self._tiff = tiff_pages(source), source
        super().__init__(path, len(self._frames))

    def image(self, page: int = 1, dpi: float = DPI) -> Any:
        return tiff_page(self._tiff, self._frames[self.index(page)])


class _Pdf(Document):
    def __init__(self, path: Path | str, opened: Any) -> None:
        super().__init__(path, len(opened))
        opened.init_forms()  # or filled-in fields stay empty
        self._opened = opened

    @contextmanager
    def _page(self, page: int) -> Iterator[Any]:
        index = self.index(page)
        with _pdfium:
            try:
                sheet = self._opened[index]
                yield sheet
                sheet.close()
            except need("pypdfium2").PdfiumError as error:
                raise DataError(f"{self.path} has a damaged page, {page}: {error}") from None

    def image(self, page: int = 1, dpi: float = DPI) -> Any:
        with self._page(page) as sheet:
            width, height = sheet.get_size()
            if not (width > 0 and height > 0 and math.isfinite(width * height)):
                raise DataError(f"{self.path}, page {page} has no area: {width} x {height} points")
            bitmap = sheet.render(scale=min(dpi / 72, math.sqrt(OCR_PIXELS / (width * height))))
            image = bitmap.to_pil().convert("RGB").copy()  # a copy: to_pil lends PDFium's own memory
            bitmap.close()
            return image

    def text(self, page: int = 1) -> TextLayer | None:
        with self._page(page) as sheet:
            return read_text_layer(sheet)

    def picture_sizes(self, page: int = 1, most: int = 10_000) -> list[tuple[int, int]]:
        image = need("pypdfium2").raw.FPDF_PAGEOBJ_IMAGE
        with self._page(page) as sheet:
            return [found.get_px_size() for found in itertools.islice(sheet.get_objects([image]), most)]


@contextmanager
def open_document(source: str | os.PathLike[str] | bytes, most_unpacked: int = MOST_UNPACKED) -> Iterator[Document]:
    """A PDF, a TIFF, or another image file, which has one page.

    Args:
        source: the file, or its bytes.
        most_unpacked: bytes that a `.pdf.gz` may hold.

    Raises:
        DataError: it is missing, empty, damaged or encrypted, or has no pages. An image's content is not looked at yet.
    """
    if isinstance(source, bytes):
        file: Path | bytes = source
        name: Path | str = "the file"
        head = source[:1024]
        if not head:
            raise DataError("the file is empty")
    else:
        file, head = check_file(source)
        name = file
    if is_tiff(head):
        yield _Tiff(name, file)
        return
    pdf = _pdf_in(file, head, str(name), most_unpacked)
    if pdf is None:
        yield Document(name, 1, file)
        return
    with _pdfium:
        opened = _open_pdf(name, pdf)
    try:
        with _pdfium:
            document = _Pdf(name, opened)
        yield document
    finally:
        with _pdfium:
            opened.close()


def _open_pdf(name: Path | str, source: Path | bytes) -> Any:
    """PDFium's document; the caller holds the lock."""
    pdfium = need("pypdfium2")
    try:
        return pdfium.PdfDocument(source)
    except pdfium.PdfiumError as error:
        # pypdfium2 takes no pages for a failure, and then tells the reason of the failure before.
        raw = pdfium.raw
        if isinstance(source, bytes):
            handle = raw.FPDF_LoadMemDocument64(source, len(source), None)
        else:
            handle = raw.FPDF_LoadDocument(str(source).encode(), None)
        if handle:
            raw.FPDF_CloseDocument(handle)
            raise DataError(f"{name} has no pages") from None
        if "password" in str(error).lower():
            raise DataError(f"{name} is encrypted; save it without a password first") from None
        raise DataError(f"{name} is damaged or cut off, PDFium cannot read it: {error}") from None


def page_count(path: str | os.PathLike[str]) -> int:
    """How many pages a PDF or a TIFF has; 1 for another image file.

    Raises:
        DataError: missing, empty, damaged or encrypted, or without pages. Another image file's content is not looked at.
    """
    with open_document(path) as document:
        return document.count


def page_image(path: str | os.PathLike[str], page: int = 1) -> Any:
    """One page as an RGB image, a PDF's at 200 dpi, or less where that would be above 4 megapixels.

    Args:
        path: a PDF or an image file.
        page: counted from 1.

    Raises:
        DataError: the file is missing, empty, damaged or encrypted, or has no such page.
    """
    with open_document(path) as document:
        return document.image(page)


def page_text(path: str | os.PathLike[str], page: int = 1) -> TextLayer | None:
    """A PDF page's own text, with whether it is all there is to read there; None for a file that is no PDF.

    Args:
        path: a PDF or an image file.
        page: counted from 1.

    Raises:
        DataError: the file is missing, empty, damaged or encrypted, or has no such page.
    """
    with open_document(path) as document:
        return document.text(page)


def load_pages(path: str | os.PathLike[str]) -> Iterator[Any]:
    """All pages, one after another, each as `page_image` gives it; the file is looked at right away.

    Raises:
        DataError: as `page_count`, and, when it comes to them, for damaged pages.
    """
    return (page_image(path, page) for page in range(1, page_count(path) + 1))
