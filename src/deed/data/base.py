"""What every task shares: a question about an image, with its words and their boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deed.ocr.words import Word

#: The answer to a question that the page does not answer.
UNANSWERABLE = "not on the page"


@dataclass(frozen=True)
class Example:
    """A question about one image.

    Attributes:
        question: as asked.
        answers: all that count as right, one per annotator where a data set has several; empty in test splits.
        words: the image's text in reading order; empty where there is none or no OCR is given.
        image: the file, or the picture itself (`PIL.Image.Image`); None for a text-only example.
        id: the data set's own question id.
        kind: what sort of question it is, for tables by kind.
        extra: fields of the data set that metrics need.
    """

    question: str
    answers: list[str]
    words: list[Word] = field(default_factory=list)
    image: Path | Any | None = None
    id: str = ""
    kind: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
