"""easy-vqa's training pictures as arrays, for the recipes that mix them in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from deed.data.readers import easyvqa
from deed.utils.images import load_image

SHAPES = ("circle", "rectangle", "triangle")
SIDE = 64  # pixels

# A question: text, answer, index of its image.
Question = tuple[str, str, int]
Pictures = tuple[np.ndarray, list[Question]]


def load_pictures(limit: int | None = None) -> Pictures:
    """easy-vqa's training part: images uint8 `[n, 64, 64, 3]`, and the questions on them.

    Args:
        limit: use only so many images.
    """
    images: dict[Path, int] = {}
    arrays: list[np.ndarray] = []
    questions: list[Question] = []
    for example in easyvqa.read(None, "train"):
        path: Any = example.image
        if path not in images:
            if limit is not None and len(images) >= limit:
                break
            images[path] = len(arrays)
            arrays.append(np.asarray(load_image(path).resize((SIDE, SIDE))))
        questions.append((example.question, example.answers[0], images[path]))
    return np.stack(arrays), questions


def shape_questions(questions: list[Question]) -> list[Question]:
    """The questions that ask for a shape's name, all where there are none: a tenth of easy-vqa's, and the hardest to learn."""
    return [question for question in questions if question[1] in SHAPES] or questions


def words() -> list[str]:
    """All words of easy-vqa's training questions and answers, sorted."""
    return sorted({w for e in easyvqa.read(None, "train") for w in re.findall(r"\w+", f"{e.question} {e.answers[0]}")})


def turned(image: np.ndarray, way: int) -> np.ndarray:
    """One of the eight ways (0 to 7) to turn and mirror a square picture `[side, side, 3]`: none changes a shape's name or
    color."""
    image = np.rot90(image, way % 4)
    return np.ascontiguousarray(image[:, ::-1] if way >= 4 else image)
