"""Scores of transcriptions: the word error rate, by jiwer, of texts as Whisper's authors normalize them (Radford et al. 2022,
arXiv 2212.04356, appendix C)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any


@functools.lru_cache
def normalizer_of(language: str) -> Callable[[str], str]:
    """What makes two ways of writing the same words alike: case, punctuation, and of English also numbers, contractions and
    titles. British and American spellings stay apart: their table is not part of Transformers.

    Args:
        language: its code.
    """
    from transformers.models.whisper import english_normalizer

    made: Any = english_normalizer
    return made.EnglishTextNormalizer({}) if language == "en" else made.BasicTextNormalizer()


def normalized(text: str, language: str) -> str:
    """A text as it is compared.

    Args:
        text: as it was said or written.
        language: its code.
    """
    return " ".join(normalizer_of(language)(text).split())


def word_accuracy_each(answers: Sequence[str], references: Sequence[str], languages: Sequence[str]) -> list[float]:
    """One minus each answer's word error rate, at least 0: one that goes on and on is no worse than a wrong one.

    Args:
        answers: transcriptions.
        references: what was said, of each; one without words is met by an answer without words.
        languages: codes, of each.

    Raises:
        ValueError: no answers, or not as many of the others.
    """
    import jiwer

    found = []
    for answer, reference in _pairs(answers, references, languages):
        found.append(max(0.0, 1.0 - jiwer.wer(reference, answer)) if reference else float(not answer))
    return found


def word_error_rate(answers: Sequence[str], references: Sequence[str], languages: Sequence[str]) -> float:
    """Words substituted, left out and added, over the words of all references.

    Args:
        answers, references, languages: as for `word_accuracy_each`.

    Raises:
        ValueError: likewise, or none of the references has words.
    """
    import jiwer

    pairs = [(answer, reference) for answer, reference in _pairs(answers, references, languages) if reference]
    if not pairs:
        raise ValueError("none of the references has words")
    return float(jiwer.wer([reference for _, reference in pairs], [answer for answer, _ in pairs]))


def _pairs(answers: Sequence[str], references: Sequence[str], languages: Sequence[str]) -> list[tuple[str, str]]:
    if not answers or not len(answers) == len(references) == len(languages):
        raise ValueError(
            f"need as many references and languages as answers, got {len(answers)} answers, {len(references)} references "
            f"and {len(languages)} languages"
        )
    together = zip(answers, references, languages, strict=True)
    return [(normalized(answer, code), normalized(reference, code)) for answer, reference, code in together]


__all__ = ["normalized", "word_accuracy_each", "word_error_rate"]
