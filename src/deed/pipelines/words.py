"""Tokens of a transcript to words, each with its exit depth and, where tokens are timed, its times."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

# Scripts that put no spaces between words: each character that tokens make up counts as a word (as in Whisper's own timing).
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN")
INCOMPLETE = "\ufffd"  # what a decoder gives for a part of a character


def to_words(
    tokens: Sequence[int],
    depths: Sequence[int],
    ends: Sequence[float] | None,
    start: float,
    decode: Callable[[list[int]], str],
) -> list[dict[str, Any]]:
    """Words `{"text", "depth"}`, with `"start"` and `"end"` in seconds where tokens are timed.

    Args:
        tokens: of one segment, those without text (times, ends) among them.
        depths: of each.
        ends: when each token ends, in seconds; None: tokens are not timed.
        start: of the segment, in seconds.
        decode: tokens to text; of special ones to nothing.
    """
    words: list[dict[str, Any]] = []
    part: list[int] = []  # places of the tokens of a character that is not whole yet
    for i, token in enumerate(tokens):
        if not part and not decode([token]):
            continue
        part.append(i)
        text = decode([tokens[j] for j in part])
        if text.endswith(INCOMPLETE) and i + 1 < len(tokens):
            continue
        if words and not begins_word(words[-1]["text"], text):
            words[-1]["text"] += text
            words[-1]["places"] += part
        else:
            words.append({"text": text, "places": part})
        part = []
    found = []
    for word in words:
        at = word["places"]
        told: dict[str, Any] = {"text": word["text"].strip()}
        if ends is not None:
            told["start"] = round(ends[at[0] - 1] if at[0] else start, 2)
            told["end"] = round(ends[at[-1]], 2)
        if depths:
            told["depth"] = round(sum(depths[j] for j in at) / len(at), 2)
        if told["text"]:
            found.append(told)
    return found


def begins_word(before: str, text: str) -> bool:
    """Whether `text` begins a new word after `before`: a space stands between, or the script has none; signs belong to what
    they follow.

    Args:
        before: the word so far.
        text: of the next tokens.
    """
    bare = text.lstrip()
    if not bare:
        return False
    if not any(character.isalnum() for character in bare) and unicodedata.category(bare[0]) not in ("Ps", "Pi", "Sc"):
        return False
    return text[0].isspace() or unicodedata.name(bare[0], "").startswith(UNSPACED)
