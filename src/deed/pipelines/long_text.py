"""Texts longer than a model reads, cut where sentences end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deed.utils.optional import need

INSTALL = 'pip install "deed-transformers[text]"'
UNBOUNDED = 100_000  # tokenizers without a limit say some very large number

# Where the configurations of encoder-decoder models say how many positions their encoder has.
_LIMITS = ("max_encoder_position_embeddings", "max_position_embeddings", "max_source_positions")


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """How many tokens the model's encoder reads at most, special ones included; None: there is no limit."""
    config = model.config.get_text_config(encoder=True)
    limits = [tokenizer.model_max_length, *(getattr(config, name, None) for name in _LIMITS)]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < UNBOUNDED]
    return min(known) if known else None


def cut(text: str, room: int, count: Callable[[str], int], language: str = "en") -> list[str]:
    """A text in pieces of at most `room` tokens: as many whole sentences as fit; a sentence that is too long by itself is cut
    between words, and a word that is too long between letters.

    Args:
        text: any.
        room: tokens per piece, special ones not counted.
        count: how many tokens a text has, without special ones.
        language: ISO 639-1, of whose sentences.

    Raises:
        ValueError: there is no room.
    """
    if room < 1:
        raise ValueError(f"the prompt leaves no room for text in what the model reads (room for {room} tokens)")
    if count(text) <= room:
        return [text]
    sentences = [str(sentence) for sentence in need("sentencex", INSTALL).segment(language, text)]
    parts = [part for sentence in sentences for part in _fitting(sentence, room, count)]
    return [piece.strip() for piece in _packed(parts, "", room, count) if piece.strip()]


def _fitting(sentence: str, room: int, count: Callable[[str], int]) -> list[str]:
    if count(sentence) <= room:
        return [sentence]
    words = [part for word in sentence.split() for part in _letters(word, room, count)]
    return [f"{piece} " for piece in _packed(words, " ", room, count)]


def _letters(word: str, room: int, count: Callable[[str], int]) -> list[str]:
    if count(word) <= room or len(word) == 1:
        return [word]
    middle = len(word) // 2
    return [*_letters(word[:middle], room, count), *_letters(word[middle:], room, count)]


def _packed(parts: Sequence[str], between: str, room: int, count: Callable[[str], int]) -> list[str]:
    """Neighbouring parts joined as far as they fit."""
    found: list[str] = []
    for part in parts:
        if found and count(found[-1] + between + part) <= room:
            found[-1] += between + part
        else:
            found.append(part)
    return found
