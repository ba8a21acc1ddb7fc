"""Letters of answers that a tokenizer cannot write: they become `<unk>` in the labels, and a model learns to say that."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from deed.errors import UnknownLetters

SHOWN = 10  # letters in the warning


class Unwritten(NamedTuple):
    """What a tokenizer cannot write.

    Attributes:
        answers: how many answers hold such letters.
        total: answers in all.
        letters: in how many answers each letter is, the most frequent first.
    """

    answers: int
    total: int
    letters: Counter[str]


class LetterCount:
    """Counts answers with letters that a tokenizer writes as its unknown token, one answer at a time.

    Args:
        tokenizer: a Transformers tokenizer. Of one without an unknown token, every letter can be written.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.letters: Counter[str] = Counter()
        self.answers = self.total = 0
        self._known: dict[str, bool] = {}

    def add(self, answer: str) -> None:
        """Take in an answer."""
        self.total += 1
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return
        for letter in set(answer) - self._known.keys():
            self._known[letter] = letter.isspace() or not self._lacks(letter)
        strange = {letter for letter in answer if not self._known[letter]}
        # A vocabulary of whole words or phonemes may write a letter within one, though not by itself.
        if strange and not self._lacks(answer):
            self._known.update(dict.fromkeys(strange, True))
        elif strange:
            self.letters.update(strange)
            self.answers += 1

    def _lacks(self, text: str) -> bool:
        return self.tokenizer.unk_token_id in self.tokenizer(text, add_special_tokens=False).input_ids

    def found(self) -> Unwritten:
        """What was counted so far, letters of equal count in their own order."""
        told = {letter: count for letter, count in self.letters.items() if not self._known[letter]} or self.letters
        order = sorted(told.items(), key=lambda item: (-item[1], item[0]))
        return Unwritten(self.answers, self.total, Counter(dict(order)))

    def warn(self, name: str = "answers") -> None:
        """Warn, with the count and the letters, if there were any."""
        if not self.answers:
            return
        letters = list(self.found().letters.items())
        shown = ", ".join(f"{letter!r} ({count})" for letter, count in letters[:SHOWN])
        more = f" and {len(letters) - SHOWN} more" if len(letters) > SHOWN else ""
        warnings.warn(
            f"{self.answers} of {self.total} {name} hold letters that the tokenizer cannot write, so that labels "
            f"have {self.tokenizer.unk_token} in their place, which no answer can equal: {shown}{more}",
            UnknownLetters,
            stacklevel=3,
        )


def unwritten(tokenizer: Any, answers: Iterable[str]) -> Unwritten:
    """Count the answers with letters that a tokenizer writes as its unknown token, and the letters.

    Args:
        tokenizer: a Transformers tokenizer. Of one without an unknown token, every letter can be written.
        answers: the texts that labels are made of.
    """
    return _counted(tokenizer, answers).found()


def warn_of_unwritten(tokenizer: Any, answers: Iterable[str], name: str = "answers") -> Unwritten:
    """Warn once, with the count and the letters, where answers hold letters that a tokenizer cannot write.

    Args:
        tokenizer: as for `unwritten`.
        answers: as for `unwritten`.
        name: what the warning calls them.

    Returns:
        What was counted.
    """
    count = _counted(tokenizer, answers)
    count.warn(name)
    return count.found()


def _counted(tokenizer: Any, answers: Iterable[str]) -> LetterCount:
    count = LetterCount(tokenizer)
    for answer in answers:
        count.add(answer)
    return count
