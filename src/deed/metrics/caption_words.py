"""A caption as the words that caption metrics compare: Penn Treebank tokens in lower case, without punctuation.

The official COCO evaluation cuts captions with Stanford's PTBTokenizer (3.4.1, Java) and drops punctuation. This cuts
the same way what captions are made of: contractions and possessives ("doesn't" -> does n't, "man's" -> man 's,
"cannot" -> can not), hyphens and slashes inside words kept (black-and-white, and/or), numbers with their signs (5:30,
1,000, 1/2; $ and % are words of their own), abbreviations with their periods (a.m., mr.), typed and curly quotes,
brackets as -lrb- and the like, which the official list of punctuation misses and so leaves in. Not done: web addresses,
emoticons, initials
("c."), and abbreviations beyond the usual.
"""

from __future__ import annotations

import re

# What the official evaluation drops; runs of two or more "?" and "!" stay, as they do there.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# Of one character each as the tokenizer writes them.
_TYPED = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "..."}
    | {"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- ", "{": " -lcb- ", "}": " -rcb- "}
)
_SUFFIX = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_TWO_WORDS = re.compile(r"(?<![\w'-])(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(lem|gim)(me))(?![\w'-])")
_ABBREVIATIONS = "mr|mrs|ms|dr|prof|st|mt|jr|sr|vs|etc|ave|blvd|inc|corp|ltd|co|jan|feb|aug|sept|oct|nov|dec"
_TOKEN = re.compile(
    rf"""
      -[lr][rsc]b-                                  # brackets
    | n't(?!\w) | '(?:s|m|d|re|ve|ll)(?!\w)         # suffixes, cut off before
    | 'n' | (?<!\w)'\d\d(?!\d)s? | o'clock
    | (?<![\w.])(?:[^\W\d_]\.){{2,}}(?!\w)          # a.m., u.s.a.
    | (?<![\w.])(?:{_ABBREVIATIONS})\.(?!\w) | no\.(?=\ ?\d)
    | \d+(?:[.,:/]\d+)+(?:-\w+)* | \.\d+            # 5:30, 1,000, 1/2
    | \w+(?:[-/]\w+|[.!?][^\W\d_]\w*)*              # words, with what joins them
    | \.\.\. | -- | [?!]{{2,}} | \S
    """,
    re.VERBOSE,
)


def words(caption: str) -> list[str]:
    """The caption's tokens in lower case, without punctuation; none for a blank caption."""
    text = caption.lower().translate(_TYPED)
    text = _TWO_WORDS.sub(lambda match: " ".join(part for part in match.groups() if part), text)
    return [token for token in _TOKEN.findall(_SUFFIX.sub(r" \1", text)) if token not in PUNCTUATION and token != '"']
