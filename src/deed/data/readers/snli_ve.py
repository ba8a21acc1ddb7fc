"""SNLI-VE: does a Flickr30K picture, or picture and caption, imply a sentence, contradict it, or leave it open?

On disk, as necla-ml/SNLI-VE hands it out, in one folder:

    snli_ve_{train,dev,test}.jsonl   a line each: {"Flickr30K_ID": "4705552913", "pairID": "4705552913.jpg#2r1n",
                                     "gold_label": entailment | neutral | contradiction, "sentence1": the caption,
                                     "sentence2": the hypothesis, …}
    flickr30k_images/{Flickr30K_ID}.jpg   also in the other `IMAGE_FOLDERS`, or beside the jsonl

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
from .locating import existing_image, find_split
from .reading import Entry, Id, read_entry, wrong

FILES = ("snli_ve_{split}.jsonl",)
FLICKR = ("flickr30k_images", "flickr30k-images", "flickr30k", "Flickr30K", "Flickr30k", "images")
# Some archives have a folder of the same name inside.
IMAGE_FOLDERS = (*FLICKR, *(f"{name}/{name}" for name in FLICKR[:2]), *(f"{name}/images" for name in FLICKR[2:5]), "")
# What the model answers, as OFA words it.
ANSWERS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}


class Pair(Entry):
    """What is read of a line."""

    named = "pair", "pairID"

    pairID: Id
    Flickr30K_ID: Id
    gold_label: str
    sentence1: str
    sentence2: str


def read(data: Path, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """The examples of `rows`, in the file's order, one at a time.

    Args:
        data: folder with the files above.
        split: `train`, `dev` (or `val`, `validation`), `test`.
        skip_missing: see `Examples`.

    Raises:
        DataError: as `rows`.
    """
    return rows(data, split).examples(skip_missing)


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
    where, pair = read_entry(value, Pair, where)
    if pair.gold_label not in ANSWERS:
        raise wrong(where, "gold_label", f"one of {', '.join(ANSWERS)}", pair.gold_label)
    name = f"{str(pair.Flickr30K_ID).removesuffix('.jpg')}.jpg"
    return Example(
        question=pair.sentence2,
        answers=[ANSWERS[pair.gold_label]],
        image=existing_image([data / folder / name for folder in IMAGE_FOLDERS], where, "Flickr30K_ID"),
        id=str(pair.pairID),
        kind=pair.gold_label,
        extra={"task": "snli_ve", "caption": pair.sentence1},
    )
