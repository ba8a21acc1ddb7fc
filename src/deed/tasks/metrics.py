"""Scores. Each takes predictions and, per prediction, the list of answers that count as right."""

from __future__ import annotations

from collections.abc import Sequence


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions equal to any of their references (word accuracy, where a prediction is a word)."""
    return sum(correct(predictions, references)) / len(predictions)


def correct(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each prediction equals any of its references.

    Raises:
        ValueError: no predictions, or as many references as predictions are not given.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"need as many references as predictions, got {len(references)} and {len(predictions)}")
    return [p in set(refs) for p, refs in zip(predictions, references, strict=True)]


def phoneme_error_rate(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Edit distance over reference length, in phonemes, each prediction against its nearest reference (jiwer)."""
    import jiwer

    nearest = [
        min(refs, key=lambda ref, p=p: jiwer.wer(ref, p))  # type: ignore[misc]
        for p, refs in zip(predictions, references, strict=True)
    ]
    return float(jiwer.wer(nearest, list(predictions)))
