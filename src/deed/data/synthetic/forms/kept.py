"""Forms kept on disk: drawing one takes a tenth of a second, and a training asks them for many questions each.

Form `index` of a split is always the same. Shards of `SHARD` forms are written whole or not at all, so that an interrupted
making goes on where it was.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deed.data.base import Example
from deed.ocr.words import Word
from deed.utils.files import atomic_write

from .making import make_form

SHARD = 100
DRAWS = 3  # times that a form is asked for its questions: table look-ups and wordings are drawn at random
LOOK_UPS, MISSING = 9, 2  # rows looked up and questions without an answer, each time


@dataclass(frozen=True)
class KeptForm:
    """One page.

    Attributes:
        kind, layout: of document, and how it is arranged.
        words: `[text, x0, y0, x1, y1]` each, boxes on 0..1000, in reading order.
        asked: `[kind, question, answer]` each; no question stands twice.
    """

    kind: str
    layout: str
    words: list[list[Any]]
    asked: list[list[str]]

    @property
    def all_words(self) -> list[Word]:
        """Every word."""
        return [Word(text, (x0, y0, x1, y1)) for text, x0, y0, x1, y1 in self.words]


def kept_forms(
    folder: Path, split: str, count: int, held_out: bool = False, tick: Callable[[int], None] | None = None
) -> Iterator[KeptForm]:
    """Forms 0..`count` of a split; those that are not on disk yet are drawn.

    Args:
        folder: where shards are kept.
        split: its name is the seed.
        count: how many.
        held_out: in the layouts that no training sees.
        tick: called with the number of forms given so far, after each shard.
    """
    for first in range(0, count, SHARD):
        path = folder / f"forms-{split}-{first:05}.jsonl.gz"
        if not path.exists():
            rows = [_made(random.Random(f"forms/{split}/{i}"), held_out) for i in range(first, first + SHARD)]
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with gzip.open(path, "rt", encoding="utf-8") as file:
            forms = [KeptForm(**json.loads(line)) for line in file]
        yield from forms[: count - first]
        if tick is not None:
            tick(min(count, first + SHARD))


def _made(rng: random.Random, held_out: bool) -> dict[str, Any]:
    form = make_form(rng, held_out)
    examples: list[Example] = [example for _ in range(DRAWS) for example in form.examples(rng, LOOK_UPS, MISSING)]
    asked = {example.question: [example.kind, example.question, example.answers[0]] for example in examples}
    words = [[word.text, *word.box] for word in form.layer.words]
    return {"kind": form.content.kind, "layout": "/".join(form.layout), "words": words, "asked": list(asked.values())}


__all__ = ["KeptForm", "kept_forms"]
