"""`read_page`: load, look in the cache, read, turn the page until it is upright, store."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.utils.images import load_image, shrink, source_name, turn_image

from . import rapid, tesseract
from .base import Reading
from .cache import cache_folder, entry_path, load_entry, save_entry
from .words import Word

ENGINES = {"rapidocr": rapid, "tesseract": tesseract}


@dataclass(frozen=True)
class OcrResult:
    """What was read on one page.

    Attributes:
        words: in reading order, their boxes relative to the upright page.
        rotation: degrees clockwise by which the image has to be turned (`turn_image`) to be upright: 0, 90, 180, 270.
        size: width and height of the upright page, in the image's pixels.
        engine: name and version.
        seconds: what the reading took, without loading models; from the cache: what it took when it was done.
        cached: whether it came from the cache.
    """

    words: list[Word]
    rotation: int
    size: tuple[int, int]
    engine: str
    seconds: float
    cached: bool = False


def read_page(
    image: Any, engine: str = "rapidocr", cache: Path | str | bool | None = None, threads: int | None = None
) -> OcrResult:
    """Read a page, whichever way up it was scanned.

    Args:
        image: a path, the bytes of an image file, or a `PIL.Image.Image`; for a PDF, `page_image(path, page)`.
        engine: `"rapidocr"` or `"tesseract"`.
        cache: a folder for results, `True` for `default_cache()`; None or False: none.
        threads: of one reading; None: as many as there are CPUs this process may use.

    Raises:
        DataError: the image cannot be read, the engine is not installed, or the cache cannot be written.
    """
    if engine not in ENGINES:
        raise DataError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if threads is not None and threads < 1:
        raise DataError(f"threads must be at least 1, got {threads}")
    reader = ENGINES[engine]
    version = reader.version()
    folder = cache_folder(cache)
    picture = load_image(image)
    path = entry_path(folder, picture, version) if folder else None
    entry = load_entry(path) if path else None
    if entry is not None:
        words = [Word(text, box) for text, box in entry.pop("words")]
        return OcrResult(words, engine=version, cached=True, **entry)

    count = threads or usable_cpus()
    reader.start(count)
    begin = time.perf_counter()
    try:
        reading, rotation = _read_upright(reader, shrink(picture), count)
    except DataError as error:
        raise DataError(f"{source_name(image)}: {error}") from error
    seconds = time.perf_counter() - begin
    size = picture.size if rotation in (0, 180) else picture.size[::-1]
    if path:
        save_entry(path, {"words": reading.words, "rotation": rotation, "size": size, "seconds": seconds})
    return OcrResult(reading.words, rotation, size, version, seconds)


def read_words(
    image: Any, engine: str = "rapidocr", cache: Path | str | bool | None = None, threads: int | None = None
) -> list[Word]:
    """The words of `read_page`: top to bottom, left to right, boxes on 0..1000 of the upright page.

    Args:
        image, engine, cache, threads: as for `read_page`.
    """
    return read_page(image, engine, cache, threads).words


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_upright(reader: Any, image: Any, threads: int) -> tuple[Reading, int]:
    """The best reading and its turn. A page that the engine finds upright, and so nearly every page, is read once; else
    the engine's advice is followed and the turn with most upright text wins."""
    readings: dict[int, Reading] = {}
    turn = 0
    while turn not in readings:
        readings[turn] = reader.read(turn_image(image, turn), threads)
        turn = (turn + readings[turn].turn) % 360
    best = max(readings, key=lambda turn: readings[turn].upright)  # the first of equals: as the page came
    return readings[best], best
