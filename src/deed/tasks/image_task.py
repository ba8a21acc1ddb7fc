"""What all tasks about images have in common: their examples, read from data sets on disk or made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deed.data.base import Example
from deed.data.registry import READERS, read
from deed.errors import DataError

from .protocol import Task

MADE = 1000  # generated scenes, which are endless, where no number is asked for


class ImageTask(Task):
    """A data set about images: one of `deed.data.registry.READERS`, or one that is made (`pages`, `scenes-…`).

    Attributes:
        reader: how the data set is read; None for one that is made.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.reader = READERS.get(name)
        self.reads_data = self.reader is not None and self.reader.on_disk
        if self.reader is not None:
            self.metric = self.reader.metric
            if self.reader.on_disk:  # such data sets have no calibration split
                self.validation_split = self.calibration_split = "val"

    def examples(self, split: str, count: int | None = None, data: Path | None = None) -> Iterator[Example]:
        """Examples that can be scored, one at a time, words read by the OCR engine where the data bring none.

        Args:
            split: as the data set names it.
            count: the first so many; None: all there are, `MADE` of scenes.
            data: folder of a data set on disk.

        Raises:
            DataError: no such split, missing or broken data.
        """
        if self.reader is None:
            if data is not None:
                raise DataError(f"{data}: {self.name.partition('-')[0]} are made, not read; leave --data out")
            found = self.made(split, MADE if count is None else count)
        else:
            found = read(self.name, data, split, skip_missing=self.skip_missing)
            if self.reader.needs_ocr:
                found = map(read_words_of, found)
        # RefCOCO's answer is its box.
        return itertools.islice((e for e in found if e.answers or "box" in e.extra), count)

    def made(self, split: str, count: int) -> Iterator[Example]:
        """Examples of a data set that is made."""
        raise NotImplementedError

    def closed(self, example: Example) -> Example:
        """The example without its picture."""
        return replace(example, image=None)


def opened(example: Example) -> Example:
    """The example with its picture in memory, RGB, and its width and height in `extra["size"]` where it has none.

    Raises:
        DataError: no picture, or one that cannot be read.
    """
    if example.image is None:
        raise DataError(f"example {example.id!r} has no picture; OFA is asked about pictures")
    picture = as_picture(example.image)
    return replace(example, image=picture, extra={"size": picture.size, **example.extra})


def as_picture(image: Any) -> Any:
    """A path or a picture, as an RGB picture."""
    from deed.ocr import load_image

    return load_image(image)


def read_words_of(example: Example, engine: str = "rapidocr") -> Example:
    """The example with the words that the OCR engine reads (kept on disk), and its picture turned upright."""
    from deed.ocr import read_page, turn_image

    if example.words or example.image is None:
        return example
    picture = as_picture(example.image)
    read = read_page(picture, engine, cache=True)
    return replace(example, words=read.words, image=turn_image(picture, read.rotation))
