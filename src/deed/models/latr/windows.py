"""Pages longer than the model reads: overlapping windows of words, and the answer chosen among theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OVERLAP = 0.25  # of a window's tokens that the next one begins with again


def windows(processor: Any, question: str, words: Sequence[Any]) -> list[range]:
    """Runs of a page's words, by their places, each as long as goes into the model beside the question; one, of all words,
    where the page fits.

    Args:
        processor: a `LatrProcessor`.
        question: as asked.
        words: `(text, box)` in reading order.
    """
    # A word beyond the end is not encoded, and the question has to be only once.
    room = processor.max_length - (len(processor.encode(question, [])[0]))
    lengths = [len(processor.pieces(word[0])[0]) for word in words]
    found: list[range] = []
    first = 0
    while True:
        stop, used = first, 0
        while stop < len(words) and (used + lengths[stop] <= room or stop == first):
            used += lengths[stop]
            stop += 1
        found.append(range(first, stop))
        if stop == len(words):
            return found
        again = 0
        while stop > first + 1 and again + lengths[stop - 1] <= OVERLAP * room:
            stop -= 1
            again += lengths[stop]
        first = stop


def best_window(answers: Sequence[str], confidences: Sequence[float], unanswerable: str) -> int:
    """Which window's answer to give: the surest of those that found one; where none did, the surest of all.

    Args:
        answers: of each window.
        confidences: how sure each is, on any scale.
        unanswerable: the answer of a window that does not say.
    """
    found = [i for i, answer in enumerate(answers) if answer != unanswerable] or range(len(answers))
    return max(found, key=lambda i: confidences[i])


__all__ = ["best_window", "windows"]
