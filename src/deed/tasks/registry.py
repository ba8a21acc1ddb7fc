"""The data sets that `deed train --task NAME` and its siblings know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from . import docvqa, easyvqa, ocrvqa, stvqa, textvqa
from .base import Example


class Reader(NamedTuple):
    """How a data set is read and scored.

    Attributes:
        read: `read(data, split)` yields the split's examples; `data` is the folder, None where a package brings it.
        metric: the function of `deed.tasks.metrics` that scores it; `{metric}_each` scores each example.
        description: one line for `--help`.
        needs_ocr: whether it has text in its pictures and brings no OCR of them.
    """

    read: Callable[[Any, str], Iterator[Example]]
    metric: str
    description: str
    needs_ocr: bool = False


READERS: dict[str, Reader] = {
    "docvqa": Reader(
        docvqa.read, "anls", "questions about scanned documents, OCR included (also as MP-DocVQA's imdb)"
    ),
    "textvqa": Reader(textvqa.read, "vqa_accuracy", "questions about text in photographs, Rosetta OCR included"),
    "stvqa": Reader(stvqa.read, "anls", "questions about text in photographs, no OCR (task 3)", True),
    "ocrvqa": Reader(ocrvqa.read, "exact_match", "questions about book covers, no OCR", True),
    "easyvqa": Reader(
        easyvqa.read, "exact_match", "questions about a coloured shape; comes with the package easy-vqa"
    ),
}
