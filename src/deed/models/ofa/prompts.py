"""What OFA is told for each task, and how questions and captions are cleaned before: word for word as it was trained.

Every prompt and target begins with a space, which byte-level BPE tells from a word's continuation.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

MAX_WORDS = 80  # of a question, expression or hypothesis, as in the released run scripts
MAX_OBJECTS = 30
CAPTION = " what does the image describe?"
# SNLI-VE's labels and the words that stand for them.
ENTAILMENT = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}
_LEADING = ",.!?*#:;~"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_question(question: str, max_words: int | None = MAX_WORDS) -> str:
    """Lower case, without leading punctuation, `-` and `/` as spaces, runs of white space as one, at most `max_words`."""
    text = question.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ")
    return _first_words(re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" "), max_words)


def clean_caption(caption: str, max_words: int | None = MAX_WORDS) -> str:
    """As `clean_question`, for expressions, captions and hypotheses: `<person>` becomes the word."""
    text = caption.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ").replace("<person>", "person")
    return _first_words(re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" "), max_words)


def vqa(question: str, objects: str | Sequence[str] | None = None, max_words: int | None = MAX_WORDS) -> str:
    """A question, with the objects that a detector found (`"dog&&ball"` or a list, the first 30) where they are given.

    Args:
        question: as it is.
        objects: names, as a list or `"dog&&ball"`.
        max_words: of the question; None: all.
    """
    text = clean_question(question, max_words)
    prompt = f" {text}" if text.endswith("?") else f" {text}?"
    if objects is None:
        return prompt
    found = objects.strip().split("&&") if isinstance(objects, str) else list(objects)
    return f"{prompt} object: {' '.join(found[:MAX_OBJECTS])}"


def refer(expression: str, max_words: int | None = MAX_WORDS) -> str:
    """Which region an expression means."""
    return f' which region does the text " {clean_caption(expression, max_words)} " describe?'


def entailment(hypothesis: str, caption: str | None = None, max_words: int | None = MAX_WORDS) -> str:
    """Whether the image, or image and caption, imply a hypothesis.

    Args:
        hypothesis: as it is.
        caption: a further premise.
        max_words: of each; None: all.
    """
    text = clean_caption(hypothesis, max_words)
    if caption is None:
        return f' does the image describe " {text} "?'
    return f' can image and text1 " {clean_caption(caption, max_words)} " imply text2 " {text} "?'


def caption_target(caption: str, max_words: int | None = None) -> str:
    """A caption as a target: without punctuation, at most `max_words`."""
    words = caption.translate(_NO_PUNCTUATION).split()
    return " " + " ".join(words if max_words is None else words[:max_words])


def entailment_target(label: str) -> str:
    """A label of SNLI-VE, or the word for it, as a target.

    Raises:
        ValueError: neither.
    """
    word = ENTAILMENT.get(label, label)
    if word not in ENTAILMENT.values():
        raise ValueError(f"label must be one of {', '.join(ENTAILMENT)}, got {label!r}")
    return f" {word}"


def _first_words(text: str, max_words: int | None) -> str:
    words = text.split(" ")
    return text if max_words is None or len(words) <= max_words else " ".join(words[:max_words])


__all__ = [
    "CAPTION",
    "ENTAILMENT",
    "caption_target",
    "clean_caption",
    "clean_question",
    "entailment",
    "entailment_target",
    "refer",
    "vqa",
]
