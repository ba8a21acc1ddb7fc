"""Grapheme to phoneme on CMUdict: spell a word, get its pronunciation ("tomato" -> "T AH M EY T OW")."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deed.data.base import Example
from deed.data.readers.cmudict import load_split
from deed.metrics.text import accuracy, correct, phoneme_error_rate

from .protocol import Task

SEED = 0  # of the order of words, which the dictionary has by the alphabet


class G2pTask(Task):
    """Words to pronunciations; right is any of those that the dictionary lists."""

    name, metric, unit = "g2p", "word_accuracy", "word"
    model_types = ("t5",)

    def __init__(self, name: str = "g2p") -> None:
        self.name = name

    def examples(self, split: str, count: int | None = None, data: Path | None = None) -> Iterator[Example]:
        """Words in an order that is always the same and not the alphabet's: a smaller sample is the head of a larger one.

        Args:
            split: of `cmudict.SPLITS`.
            count: so many; None: all.
            data: a dictionary file instead of the packaged one.
        """
        rows = load_split(split, data)
        random.Random(SEED).shuffle(rows)
        return (Example(word, answers) for word, answers in rows[:count])

    def score(self, answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """1 for a listed pronunciation, else 0."""
        return [float(right) for right in correct(answers, [example.answers for example in examples])]

    def other_scores(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
        """Phoneme error rate against the nearest listed pronunciation."""
        return {"phoneme_error_rate": phoneme_error_rate(answers, [example.answers for example in examples])}


def encode_pairs(rows: list[tuple[str, list[str]]], tokenizer: Any) -> list[dict[str, list[int]]]:
    """Training examples `{"input_ids", "labels"}`, one per listed pronunciation."""
    words = [word for word, answers in rows for _ in answers]
    targets = [answer for _, answers in rows for answer in answers]
    inputs = tokenizer(words).input_ids
    labels = tokenizer(targets).input_ids
    return [{"input_ids": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def score(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Word accuracy against any listed pronunciation, and phoneme error rate against the nearest."""
    return {
        "word_accuracy": accuracy(predictions, references),
        "phoneme_error_rate": phoneme_error_rate(predictions, references),
    }


def score_ids(ids: Any, references: list[list[str]], tokenizer: Any) -> dict[str, float]:
    """`score` of generated ids as Trainer gathers them.

    Args:
        ids: `[rows, length]`, padded with -100, and with the first rows repeated at the end where several processes filled
            up their last batch.
        references: listed pronunciations per word.
        tokenizer: decodes.
    """
    ids = ids[: len(references)].copy()
    ids[ids < 0] = tokenizer.pad_token_id
    return score(tokenizer.batch_decode(ids, skip_special_tokens=True), references)
