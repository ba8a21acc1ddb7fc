"""Words and their boxes out of pictures and PDF pages, with the OCR models that come inside the `rapidocr` wheel.

    from deed.ocr import default_cache, page_image, read_words

    words = read_words("receipt.jpg")
    words = read_words(page_image("report.pdf", page=3), cache=default_cache())

A PDF page's own text comes without OCR: `page_text("report.pdf", page=3)`. Nothing is downloaded. `read_page` also tells how
the page had to be turned; `engine="tesseract"` reads with Tesseract.
"""

from deed.errors import DataError
from deed.utils.images import load_image, turn_image

from .cache import default_cache, usable_cache
from .pages import Document, load_pages, open_document, page_count, page_image, page_text
from .reading import ENGINES, OcrResult, read_page, read_words
from .text_layer import TextLayer
from .words import Word

__all__ = [
    "ENGINES",
    "DataError",
    "Document",
    "OcrResult",
    "TextLayer",
    "Word",
    "default_cache",
    "load_image",
    "load_pages",
    "open_document",
    "page_count",
    "page_image",
    "page_text",
    "read_page",
    "read_words",
    "turn_image",
    "usable_cache",
]
