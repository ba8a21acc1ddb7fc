"""Questions of people as models take them: in the words they know, and no longer than they read; and what a model's card says
that it reads."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any


def examples_of(processor: Any, seen: dict[str, Any], questions: list[str]) -> tuple[list[Any], list[int]]:
    """Questions about a page as the task takes them, and how many of the page's words each of them leaves room for.

    Args:
        processor: a `LatrProcessor`.
        seen: of `Reader.read`.
        questions: as asked.

    Raises:
        ValueError: a question that does not fit.
    """
    from deed.data.base import Example

    known = [in_known_words(processor, question) for question in questions]
    fits = [words_that_fit(processor, question, seen["words"]) for question in known]
    return [Example(question, [], seen["words"], seen["picture"]) for question in known], fits


def whole_object(text: str) -> dict[str, Any] | None:
    """The fields of a JSON object; None where the model did not finish it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def in_known_words(processor: Any, question: str) -> str:
    """The question, in small letters where that takes fewer tokens: a small vocabulary knows whole words in that form
    only, and its model has seen no other. Vocabularies with "What" as well as "what" get the question as it is."""
    question = " ".join(question.split())
    small = question.lower()
    few, many = spelled(processor.tokenizer, [small, question])
    return small if few < many else question


def words_that_fit(processor: Any, question: str, words: list[Any]) -> int:
    """How many of the words, from the first, the processor keeps beside the question.

    Args:
        processor: a `LatrProcessor`.
        question: as it is asked.
        words: `(text, box)` in reading order.

    Raises:
        ValueError: the question alone is too long.
    """
    if spelled(processor.tokenizer, [question])[0] < processor.max_length:  # or encoding it would cut it
        room = processor.max_length - len(processor.encode(question, [])[0])
        if room > 0:
            lengths = spelled(processor.tokenizer, [text for text, _ in words])
            return sum(used <= room for used in itertools.accumulate(lengths))
    raise ValueError(f"the question is longer than this model reads ({processor.max_length} tokens); shorten it")


def in_one_line(text: str) -> str:
    """As people of data sets write: without line breaks, spaces around or a full stop; prompts make letters small."""
    return " ".join(text.split()).rstrip(". ")


def check_lengths(processor: Any, task: str, texts: list[str], most: int) -> None:
    """Whether all texts are read to their ends.

    Args:
        processor: an `OFAProcessor`.
        task: what is asked.
        texts: as they are asked.
        most: tokens of a prompt.

    Raises:
        ValueError: too many words, which would be cut, or too many tokens.
    """
    from deed.models.ofa import prompts

    what, worded = ("expression", prompts.refer) if task == "refer" else ("question", prompts.vqa)
    for i, text in enumerate(texts, 1):
        words = len(prompts.clean_caption(text, None).split(" "))
        if words > prompts.MAX_WORDS:
            raise ValueError(f"{what} {i} has {words} words, more than the {prompts.MAX_WORDS} OFA reads; shorten it")
        tokens = len(processor.tokenizer(worded(text), verbose=False).input_ids)
        if tokens > most:
            raise ValueError(
                f"{what} {i} takes {tokens} tokens, more than the {most} that this model reads; shorten it"
            )


def spelled(tokenizer: Any, texts: list[str]) -> list[int]:
    """How many tokens each text takes."""
    if not texts:
        return []
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids]


def what_it_reads(folder: Path) -> str:
    """What a model reads and what not: the first paragraph of the section of that name in its card; empty where it has none.

    Args:
        folder: of the model.
    """
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    _, _, section = card.partition("\n## What it reads\n")
    return " ".join(section.strip().partition("\n\n")[0].split())
