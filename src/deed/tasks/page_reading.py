"""A page of a document as a LaTr++ gets it: upright, with its words, by its own text or by OCR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deed.utils.shipped import DOCUMENTS, PAPERWORK

OCR, NO_OCR = "rapidocr", "none"
# Whether OCR reads a page: where its own text does not cover it, or not.
AUTO, ALWAYS, NEVER = "auto", "always", "never"
SMALL_DPI = 72  # a page read without OCR is only looked at as a whole
SHORT = 60  # words: the longest pages that the shipped model for short ones was trained on


def suited(seen: dict[str, Any] | None) -> str:
    """The name (`deed.utils.shipped.NAMES`) of the shipped model that knows such a page best: `"documents"` for few words that
    OCR reads and for pages looked at without their words, `"paperwork"` for PDFs' own text and long pages.

    Args:
        seen: of `Reader.read`; None: all pages of a document.
    """
    if seen is not None and (seen["ocr"] is None or (seen["ocr"]["ms"] is not None and len(seen["words"]) <= SHORT)):
        return DOCUMENTS
    return PAPERWORK


class Reader:
    """Reads pages of one document.

    Args:
        document: of `deed.ocr.open_document`.
        ocr: as `--ocr`.
        cache: where OCR results are kept; None: nowhere.
    """

    def __init__(self, document: Any, ocr: str, cache: Path | None) -> None:
        self.document, self.ocr, self.cache = document, ocr, cache

    def read(self, page: int) -> dict[str, Any]:
        """The page as the model gets it: its `picture`, upright, its `words`, and in `ocr` what is said of the reading (None
        without).

        Args:
            page: counted from 1.

        Raises:
            DataError: a page that is not there, or damaged.
            ValueError: `--ocr never`, and the page has no text of its own.
        """
        from deed.ocr import read_page, turn_image

        if self.ocr == NO_OCR:
            return {"picture": self.document.image(page, SMALL_DPI), "words": [], "ocr": None}
        layer = self.document.text(page) if self.ocr in (AUTO, NEVER) else None
        if self.ocr == NEVER and (layer is None or not layer.words):
            where = f", page {page}" if layer else ""
            raise ValueError(f"--ocr never: {self.document.path} has no text of its own{where}; leave --ocr out")
        if layer is not None and (layer.covers or self.ocr == NEVER):
            picture, words, turn = self.document.image(page, SMALL_DPI), layer.words, layer.rotation
            said: dict[str, Any] = {"engine": "text layer", "ms": None, "reason": "", "cached": False}
        else:
            picture = self.document.image(page)
            engine = OCR if self.ocr in (AUTO, ALWAYS) else self.ocr
            result = read_page(picture, engine=engine, cache=self.cache)
            words, turn = result.words, result.rotation
            reason = layer.reason if layer else ""
            said = {"engine": result.engine, "ms": 1e3 * result.seconds, "reason": reason, "cached": result.cached}
        picture = turn_image(picture, turn)
        return {"picture": picture, "words": words, "ocr": {**said, "words": len(words), "rotation": turn}}
