"""SNLI-VE: does a Flickr30K picture, or picture and caption, imply a sentence, contradict it, or leave it open?

On disk, as necla-ml/SNLI-VE hands it out, in one folder:

    snli_ve_{train,dev,test}.jsonl   a line each: {"Flickr30K_ID": "4705552913", "pairID": "4705552913.jpg#2r1n",
                                     "gold_label": entailment | neutral | contradiction, "sentence1": the caption,
                                     "sentence2": the hypothesis, …}
    flickr30k_images/{Flickr30K_ID}.jpg   also `flickr30k-images`, `images`, or beside the jsonl

Scored by plain accuracy (`metrics.exact_match`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from deed.errors import DataError

from ..base import Example
from .lines import Rows
from .reading import Entry, existing_image, find_split

FILES = ("snli_ve_{split}.jsonl",)
IMAGE_FOLDERS = ("flickr30k_images", "flickr30k-images", "images", "")
# What the model answers, as OFA words it.
ANSWERS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}


def read(data: Path, split: str) -> Iterator[Example]:
    """The examples of `rows`, in the file's order, one at a time; raises as it does."""
    return iter(rows(data, split))


def rows(data: Path, split: str) -> Rows:
    """The examples of a split, each read from the file when it is asked for.

    Args:
        data: folder with the files above.
        split: `train`, `dev` (or `val`, `validation`), `test`.

    Returns:
        A sequence of `Example`s: `question` is the hypothesis, `answers` one of `ANSWERS`' words, `kind` the label,
        `id` the `pairID`, `extra["caption"]` the picture's caption, `extra["task"]` `"snli_ve"`.

    Raises:
        DataError: no such folder or split (at once); a broken line or a missing image (when it is reached).
    """
    data = Path(data)
    _, path = find_split(data, "dev" if split in ("val", "validation") else split, FILES)
    return Rows(path, partial(_parse, data))


def _parse(data: Path, line: bytes, where: str) -> Example:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); get the file again") from None
    entry = Entry(value, where)
    pair_id = entry.id("pairID")
    entry.where += f" (pair {pair_id})"
    label = entry.text("gold_label")
    if label not in ANSWERS:
        raise entry.wrong("gold_label", f"one of {', '.join(ANSWERS)}")
    name = f"{entry.id('Flickr30K_ID').removesuffix('.jpg')}.jpg"
    return Example(
        question=entry.text("sentence2"),
        answers=[ANSWERS[label]],
        image=existing_image([data / folder / name for folder in IMAGE_FOLDERS], entry.where, "Flickr30K_ID"),
        id=pair_id,
        kind=label,
        extra={"task": "snli_ve", "caption": entry.text("sentence1")},
    )
