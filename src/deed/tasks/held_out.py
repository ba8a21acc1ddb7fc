"""Held-out questions of any task about images, as `deed calibrate` and `deed evaluate` read them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .base import DataError, Example
from .registry import READERS


def check_tasks(given: Sequence[str] | None, folder: Path) -> list[str]:
    """The tasks asked for; where none is, the one that the saved model is for.

    Raises:
        DataError: an unknown task, or g2p together with another.
    """
    tasks = list(given or [default_task(folder)])
    known = ["g2p", "pages", *sorted(READERS)]
    strange = [task for task in tasks if task not in known]
    if strange:
        raise DataError(f"--task must be one of {', '.join(known)}, got {strange[0]!r}")
    if "g2p" in tasks and len(tasks) > 1:
        raise DataError("--task g2p is of another kind of model than the others; give it alone")
    return tasks


def default_task(folder: Path) -> str:
    """`"pages"` for a LaTr++, else `"g2p"`."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return "g2p"  # whoever loads the model says what is wrong with it
    return "pages" if kind == "latr" else "g2p"


def examples_of(
    task: str,
    data: Path | None,
    split: str | None,
    default_split: str,
    count: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> tuple[str, Iterator[Example]]:
    """The task's metric, and its examples that have answers, one at a time, words read where the data bring none.

    Args:
        split: None: `default_split` for pages and easy-vqa; for data on disk, which have no calibration split, `val`.
        tick: called with the number of examples so far.

    Raises:
        DataError: no such split, missing or broken data.
    """
    if task == "pages":
        if data is not None:
            raise DataError(f"{data}: pages are made, not read; leave --data out")
        from .pages_read import read_split

        metric, found = "anls", read_split(split or default_split)
    else:
        reader = READERS[task]
        metric = reader.metric
        found = reader.read(data, split or (default_split if data is None else "val"))
        if reader.needs_ocr:
            found = map(read_words_of, found)
    with_answers = (example for example in found if example.answers)
    return metric, counted(itertools.islice(with_answers, count), tick)


def counted(examples: Iterator[Example], tick: Callable[[int], None] | None) -> Iterator[Example]:
    for i, example in enumerate(examples, 1):
        if tick is not None:
            tick(i)
        yield example


def read_words_of(example: Example, engine: str = "rapidocr") -> Example:
    """The example with the words that the OCR engine reads (kept on disk), and its picture turned upright."""
    from ..ocr import read_page, turn_image
    from .document_run import as_picture

    if example.words or example.image is None:
        return example
    picture = as_picture(example.image)
    read = read_page(picture, engine, cache=True)
    return replace(example, words=read.words, image=turn_image(picture, read.rotation))
