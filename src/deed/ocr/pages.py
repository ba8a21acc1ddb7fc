"""Pages of PDF files, drawn by PDFium, and of TIFFs as images; another image file is a document of one page."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.utils.images import OCR_PIXELS, check_file, is_pdf, is_tiff, load_image, tiff_page, tiff_pages
from deed.utils.optional import need

DPI = 200  # lower where a page would get more than OCR_PIXELS
_pdfium = threading.Lock()  # PDFium must not be called from two threads


@contextmanager
def _document(path: Path) -> Iterator[Any]:
    pdfium = need("pypdfium2")
    with _pdfium:
        try:
            document = pdfium.PdfDocument(path)
        except pdfium.PdfiumError as error:
            # pypdfium2 takes no pages for a failure, and then tells the reason of the failure before.
            handle = pdfium.raw.FPDF_LoadDocument(str(path).encode(), None)
            if handle:
                pdfium.raw.FPDF_CloseDocument(handle)
                raise DataError(f"{path} has no pages") from None
            if "password" in str(error).lower():
                raise DataError(f"{path} is encrypted; save it without a password first") from None
            raise DataError(f"{path} is damaged or cut off, PDFium cannot read it: {error}") from None
        try:
            yield document
        except pdfium.PdfiumError as error:
            raise DataError(f"{path} has a damaged page: {error}") from None
        finally:
            document.close()


def page_count(path: str | os.PathLike[str]) -> int:
    """How many pages a PDF or a TIFF has; 1 for another image file.

    Raises:
        DataError: missing, empty, damaged or encrypted, or without pages. Another image file's content is not looked at.
    """
    file, head = check_file(path)
    if is_tiff(head):
        return len(tiff_pages(file))
    if not is_pdf(head):
        return 1
    with _document(file) as document:
        return len(document)


def page_image(path: str | os.PathLike[str], page: int = 1) -> Any:
    """One page as an RGB image, a PDF's at 200 dpi, or less where that would be above 4 megapixels.

    Args:
        path: a PDF or an image file.
        page: counted from 1.

    Raises:
        DataError: the file is missing, empty, damaged or encrypted, or has no such page.
    """
    file, head = check_file(path)
    if is_tiff(head):
        frames = tiff_pages(file)
        if not 1 <= page <= len(frames):
            raise DataError(f"{file} has pages 1 to {len(frames)}, got page {page}")
        return tiff_page(file, frames[page - 1])
    if not is_pdf(head):
        if page != 1:
            raise DataError(f"{file} is an image, which has page 1 only, got page {page}")
        return load_image(file)
    with _document(file) as document:
        count = len(document)
        if not 1 <= page <= count:
            raise DataError(f"{file} has pages 1 to {count}, got page {page}")
        document.init_forms()  # or filled-in fields stay empty
        sheet = document[page - 1]
        width, height = sheet.get_size()
        if not (width > 0 and height > 0 and math.isfinite(width * height)):
            raise DataError(f"{file}, page {page} has no area: {width} x {height} points")
        scale = min(DPI / 72, math.sqrt(OCR_PIXELS / (width * height)))
        bitmap = sheet.render(scale=scale)
        image = bitmap.to_pil().convert("RGB").copy()  # a copy: to_pil lends PDFium's own memory
        bitmap.close()
        sheet.close()
        return image


def load_pages(path: str | os.PathLike[str]) -> Iterator[Any]:
    """All pages, one after another, each as `page_image` gives it; the file is looked at right away.

    Raises:
        DataError: as `page_count`, and, when it comes to them, for damaged pages.
    """
    return (page_image(path, page) for page in range(1, page_count(path) + 1))
