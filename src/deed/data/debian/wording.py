"""Other words for the rules' questions, as people ask them: a training that met one wording only would know that one only."""

from __future__ import annotations

import random
import re

# What a rule asks, and how else it can be asked; groups are filled in, `{0}` in small letters.
_WORDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        r"what is the title\?",
        (
            "what is the title of this document?",
            "what is the document called?",
            "what's the title?",
            "title?",
            "which title does it have?",
            "what is the name of this document?",
        ),
    ),
    (
        r"who is the author\?",
        ("who wrote this?", "who is it by?", "who wrote the document?", "author?", "what is the author's name?"),
    ),
    (
        r"what is the date\?",
        (
            "when was this written?",
            "what is the date of this document?",
            "when was it published?",
            "date?",
            "which date does it have?",
        ),
    ),
    (
        r"what is the version\?",
        ("which version is this?", "what is the version number?", "version?", "what version does it describe?"),
    ),
    (
        r"what is the e-mail address\?",
        ("which e-mail address is given?", "what is the email?", "e-mail?", "where can one write to by email?"),
    ),
    (
        r"what is the web address\?",
        ("what is the url?", "which url is on the page?", "what is the website?", "web address?"),
    ),
    (
        r"what is the page number\?",
        ("which page is this?", "page number?", "what number does this page have?", "what page is it?"),
    ),
    (
        r"what is the heading of section ([\d.]+)\?",
        (
            "what is section {0} called?",
            "what is section {0} about?",
            "what is the title of section {0}?",
            "heading of section {0}?",
            "section {0}?",
        ),
    ),
    (
        r"what is the number of the section \"(.+)\"\?",
        (
            'which section is called "{0}"?',
            'which number does the section "{0}" have?',
            'what is the section number of "{0}"?',
            "which section is {0}?",
        ),
    ),
    (
        r"what does the caption of ((?:figure|table) [\d.]+) say\?",
        ("what does {0} show?", "what is {0}?", "what is the caption of {0}?", "caption of {0}?"),
    ),
    (
        r"what comes after \"(.+?):?\"\?",
        ("what is the {0}?", "{0}?", 'what does it say for "{0}"?', 'what stands next to "{0}"?', "which {0}?"),
    ),
    (
        r"what is the \"(.+)\" of \"(.+)\"\?",
        (
            "what is the {0} of {1}?",
            'which "{0}" does "{1}" have?',
            'what stands under "{0}" for "{1}"?',
            "{0} of {1}?",
            'what is the "{0}" for "{1}"?',
        ),
    ),
    (r"which word comes after \"(.+)\"\?", ('what is the word after "{0}"?', 'what is the next word after "{0}"?')),
    (
        r"is the word \"(.+)\" on the page\?",
        ('does the page say "{0}"?', 'is "{0}" on the page?', 'is there the word "{0}"?', 'does "{0}" occur?'),
    ),
    (
        r"what is the (invoice number|total|due date|phone number|date of birth|weight|order number)\?",
        ("which {0} is given?", "{0}?", "what's the {0}?", "tell me the {0}"),
    ),
)
_PATTERNS = tuple((re.compile(pattern), ways) for pattern, ways in _WORDINGS)


def reworded(question: str, rng: random.Random, share: float = 0.5) -> str:
    """The question, or with a chance of `share` in other words; now and then with a capital, or without its mark.

    Args:
        question: of a rule, or any other, whose words stay.
        rng: decides.
        share: chance of other words.
    """
    if rng.random() < share:
        for pattern, ways in _PATTERNS:
            match = pattern.fullmatch(question)
            if match:
                question = rng.choice(ways).format(*match.groups())
                break
    draw = rng.random()
    if draw < 0.25:
        question = question[:1].upper() + question[1:]
    elif draw > 0.9:
        question = question.removesuffix("?")
    return question


__all__ = ["reworded"]
