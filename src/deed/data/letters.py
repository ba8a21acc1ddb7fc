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


def unwritten(tokenizer: Any, answers: Iterable[str]) -> Unwritten:
    """Count the answers with letters that a tokenizer writes as its unknown token, and the letters.

    Args:
        tokenizer: a Transformers tokenizer. Of one without an unknown token, every letter can be written.
        answers: the texts that labels are made of.
    """
    unknown = tokenizer.unk_token_id
    known: dict[str, bool] = {}
    letters: Counter[str] = Counter()
    found = total = 0
    for answer in answers:
        total += 1
        if unknown is None:
            continue
        for letter in set(answer) - known.keys():
            known[letter] = letter.isspace() or unknown not in tokenizer(letter, add_special_tokens=False).input_ids
        lacking = {letter for letter in set(answer) if not known[letter]}
        found += bool(lacking)
        letters.update(lacking)
    return Unwritten(found, total, Counter(dict(sorted(letters.items(), key=lambda item: (-item[1], item[0])))))


def warn_of_unwritten(tokenizer: Any, answers: Iterable[str], name: str = "answers") -> Unwritten:
    """Warn once, with the count and the letters, where answers hold letters that a tokenizer cannot write.

    Args:
        tokenizer: as for `unwritten`.
        answers: as for `unwritten`.
        name: what the warning calls them.

    Returns:
        What was counted.
    """
    counted = unwritten(tokenizer, answers)
    if counted.answers:
        shown = ", ".join(f"{letter!r} ({count})" for letter, count in counted.letters.most_common(SHOWN))
        more = f" and {len(counted.letters) - SHOWN} more" if len(counted.letters) > SHOWN else ""
        warnings.warn(
            f"{counted.answers} of {counted.total} {name} hold letters that the tokenizer cannot write, so that labels "
            f"have {tokenizer.unk_token} in their place, which no answer can equal: {shown}{more}",
            UnknownLetters,
            stacklevel=2,
        )
    return counted
