"""Where on a page an answer was read: its values, their tokens' depths, and the boxes of the OCR words that spell them.

A model says tokens, not places. What is marked is where the text it gave stands on the page, which for a value that is
printed more than once is a guess (the place whose neighbors the question or the key names best), and for a value that is
printed nowhere, nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

Box = tuple[int, int, int, int]

ALIKE = 0.75  # similarity from which a misread word still counts as the one meant
MOST_WORDS = 12  # of one value
NEAR_ABOVE = 60  # thousandths of the page: a label so far above a value is its label
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)":"((?:[^"\\]|\\.)*)"')
_SMALL_WORDS = {"the", "what", "which", "how", "who", "when", "for", "and", "was", "does", "many", "much"}


class Value(NamedTuple):
    """One value of an answer.

    Attributes:
        key: of a JSON object; empty where the whole answer is one value.
        text: as answered.
        start, end: of its characters in the answer.
    """

    key: str
    text: str
    start: int
    end: int


def values_of(answer: str) -> list[Value]:
    """The pairs of a JSON object, also of one cut off or damaged as far as pairs are whole; else the answer itself."""
    if not is_json(answer):
        return [Value("", answer, 0, len(answer))]
    return [Value(_plain(m[1]), _plain(m[2]), m.start(2), m.end(2)) for m in _PAIR.finditer(answer)]


def is_json(answer: str) -> bool:
    """Whether an answer means to be a JSON object."""
    return answer.lstrip().startswith('{"')


def _plain(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:  # a stray backslash
        return text


def tokens_within(value: Value, pieces: Sequence[str], end_token: str | None) -> list[int]:
    """Indices of the tokens that spell a value.

    Args:
        value: a part of the answer.
        pieces: `text_pieces` of the whole answer.
        end_token: a piece of its own, which is no text.
    """
    at, found = 0, []
    for i, piece in enumerate(pieces):
        length = 0 if piece == end_token else len(piece)
        if length and at < value.end and at + length > value.start:
            found.append(i)
        at += length
    return found


def find_boxes(text: str, words: Sequence[Any], hint: str = "") -> list[Box]:
    """Boxes, one per line of text, of the words that spell `text`; none where they are not on the page.

    Args:
        words: `(text, box)` in reading order.
        hint: the question or the key; where a text is printed twice, the place near such words is taken.
    """
    hints = {w for w in re.findall(r"\w+", hint.casefold()) if len(w) > 2} - _SMALL_WORDS
    best, place = (0.0, 0), None
    for start in range(len(words)):
        for end in range(start + 1, min(start + MOST_WORDS, len(words)) + 1):
            likeness = _likeness(text, [word for word, _ in words[start:end]])
            if not likeness or likeness < best[0]:
                continue
            rank = (likeness, _neighbors(words[start:end], words, hints))
            if rank > best:
                best, place = rank, (start, end)
    return lines_of([box for _, box in words[place[0] : place[1]]]) if place else []


def _likeness(text: str, words: list[str]) -> float:
    """1 for the same characters but for spaces, case and outer punctuation, less for a part of a word or a misread one."""
    from rapidfuzz.distance import Levenshtein

    wanted, found = _squash(text), _squash("".join(words))
    if not wanted or len(found) > 2 * len(wanted) + 12:
        return 0.0
    if found == wanted:
        return 1.0
    if len(words) == 1 and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", found):
        return 0.95  # a label and its value, read as one word
    return 0.9 * Levenshtein.normalized_similarity(wanted, found, score_cutoff=ALIKE)


def _squash(text: str) -> str:
    return "".join(text.split()).casefold().strip(".,:;")


def _neighbors(found: Sequence[Any], words: Sequence[Any], hints: set[str]) -> int:
    """How many of the hints stand on the line of the words found, or right above them."""
    x0, y0, x1, y1 = _around([box for _, box in found])
    near = set()
    for word, (left, top, right, bottom) in words:
        middle = (top + bottom) / 2
        above = left < x1 and right > x0 and 0 <= y0 - middle <= NEAR_ABOVE
        if y0 <= middle <= y1 or above:
            near.add(_squash(word))
    return len(near & hints)


def lines_of(boxes: Sequence[Box]) -> list[Box]:
    """Boxes of neighboring words, those of one line joined."""
    lines: list[Box] = []
    for box in boxes:
        if lines and lines[-1][1] <= (box[1] + box[3]) / 2 <= lines[-1][3] and box[0] >= lines[-1][0]:
            lines[-1] = _around([lines[-1], box])
        else:
            lines.append(tuple(box))  # type: ignore[arg-type]
    return lines


def _around(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)
