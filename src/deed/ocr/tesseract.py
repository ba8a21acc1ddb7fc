"""The Tesseract engine, through `pytesseract` and the `tesseract` program."""

from __future__ import annotations

from typing import Any

from deed.errors import DataError
from deed.utils.optional import need

from .base import Reading
from .words import Word, unit_box

INSTALL = (
    "install the package (pip install pytesseract) and the program "
    '(apt-get install tesseract-ocr, brew install tesseract), or read with engine="rapidocr"'
)
CONFIDENT = 60  # mean confidence in percent; text that lies upside down gets about 30, a good scan 90
TALL = 1.5  # a word this many times as high as wide stands on end


def version() -> str:
    """Name and version.

    Raises:
        DataError: the package or the program is not installed.
    """
    pytesseract = need("pytesseract", INSTALL)
    try:
        return f"tesseract {pytesseract.get_tesseract_version()}"
    except pytesseract.TesseractNotFoundError:
        raise DataError(f"the program tesseract is not in PATH: {INSTALL}") from None


def start(threads: int) -> None:
    """Nothing to make ready: every reading runs the program anew (its threads: the variable OMP_THREAD_LIMIT)."""


def read(image: Any, threads: int) -> Reading:
    """The words of an RGB image as it lies, in Tesseract's own order."""
    pytesseract = need("pytesseract", INSTALL)
    try:
        data = pytesseract.image_to_data(image, output_type=pytesseract.Output.DICT)
    except pytesseract.TesseractError as error:
        raise DataError(f"tesseract failed: {error}") from None
    width, height = image.size
    words: list[Word] = []
    upright = total = sure = tall = 0.0
    columns = (data.get(key, []) for key in ("text", "conf", "left", "top", "width", "height"))
    for text, conf, x, y, w, h in zip(*columns, strict=True):
        text, conf = str(text).strip(), float(conf)
        if conf < 0 or not text:  # -1: a block or a line
            continue
        words.append(Word("".join(text.split()), unit_box(x, y, x + w, y + h, width, height)))
        total += len(text)
        sure += len(text) * conf / 100
        if len(text) > 1 and h > TALL * w:
            tall += len(text)
        else:
            upright += len(text) * conf / 100
    # Text on end is found and read downwards: rightly where the page lies on its left side, else as gibberish.
    unsure = sure < total * CONFIDENT / 100
    if tall > total / 2:
        turn = 90 if unsure else 270
    else:
        turn = 180 if unsure else 0
    return Reading(words, upright, turn)
