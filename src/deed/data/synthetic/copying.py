"""Pages of strings that nobody can guess, with questions that take looking up and copying and nothing else.

Strings are letters and digits at random, now and then with marks between them, or words that are given, in random order; so no
answer follows from what a model has read elsewhere. Lines break at random, some are a label and its value.
"""

from __future__ import annotations

import itertools
import math
import random
import string
from collections import Counter
from collections.abc import Sequence

from deed.ocr.words import Word

Question = tuple[str, str, str]  # kind, question, answer

ALPHABETS = (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.ascii_letters + string.digits)
LABELS = 0.15  # share of lines that are a label and its value
LONGEST = 8  # words of an answer
HEIGHT, STEP, LETTER, EDGES = (
    16,
    24,
    11,
    (50, 950),
)  # thousandths of the page: of a line, from line to line, of a letter


def unguessable(rng: random.Random) -> str:
    """A string of two to eight characters."""
    text = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(2, 6)))
    if rng.random() < 0.15:
        text += rng.choice("-./:") + "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(1, 2)))
    return text


def copying_page(rng: random.Random, count: int, known: Sequence[str] = ()) -> tuple[list[Word], list[Question]]:
    """A page and some questions about it, each with one answer.

    Args:
        rng: decides everything.
        count: words.
        known: words to mix in, half of all where there are any.

    Returns:
        The words, boxes on 0..1000, in reading order; kind, question and answer each.
    """

    def some() -> str:
        return rng.choice(known) if known and rng.random() < 0.5 else unguessable(rng)

    words: list[Word] = []
    labels: list[tuple[int, int, int]] = []  # of a label its first word, of its value the first, the end
    left, x, y, begun = EDGES[0], EDGES[0], 30, 0
    while len(words) < count:
        line = [some() for _ in range(rng.randint(1, 9))][: count - len(words)]
        begun = len(words)
        if len(line) > 1 and rng.random() < LABELS:
            split = rng.randint(1, min(2, len(line) - 1))
            line[split - 1] = line[split - 1].rstrip(":") + ":"
            labels.append((begun, begun + split, begun + len(line)))
        left = rng.choice((EDGES[0], EDGES[0], left, rng.randint(EDGES[0], 500)))
        x = left
        for text in line:
            wide = LETTER * len(text)
            if x + wide > EDGES[1] and x > EDGES[0]:
                x, y = EDGES[0], y + STEP
            top = min(y, 1000 - HEIGHT)
            words.append(Word(text, (x, top, min(1000, x + wide), top + HEIGHT)))
            x += wide + LETTER
        y += rng.choice((STEP, STEP, 2 * STEP))
    return words, _asked(words, labels, rng)


def _asked(words: Sequence[Word], labels: Sequence[tuple[int, int, int]], rng: random.Random) -> list[Question]:
    texts = [word.text for word in words]
    pairs = Counter(itertools.pairwise(texts))
    sure = [i for i, pair in enumerate(itertools.pairwise(texts)) if pairs[pair] == 1]
    found: list[Question] = []
    for i in rng.sample(sure, min(4 * math.ceil(len(words) / 100), len(sure))):
        pair = f'"{texts[i]} {texts[i + 1]}"'
        if i + 2 < len(texts) and rng.random() < 0.5:
            found.append(("next word", f"which word comes after {pair}?", texts[i + 2]))
        elif i + 2 < len(texts):
            run = texts[i + 2 : i + 2 + rng.randint(2, LONGEST)]
            found.append(("reading", f"which words come after {pair}?", " ".join(run)))
        if i and rng.random() < 0.3:
            found.append(("word before", f"which word comes before {pair}?", texts[i - 1]))
    for first, value, end in labels:
        label = " ".join(texts[first:value])
        alike = [" ".join(texts[i : i + value - first]) == label for i in range(len(texts))]
        if sum(alike) == 1:
            found.append(("label", f'what comes after "{label}"?', " ".join(texts[value:end])))
    if 1 < len(texts) <= LONGEST:
        found.append(("reading", "what does it say?", " ".join(texts)))
    rng.shuffle(found)
    return found


__all__ = ["copying_page", "unguessable"]
