"""What OCR would read off a page, and a thumbnail of it, without drawing it: training examples by the thousand.

The order of words is that of RapidOCR: texts from top to bottom, those whose tops follow each other within 10 px from
left to right. Errors are as rare as its own on such pages.
"""

from __future__ import annotations

import math
import random
from operator import itemgetter

import numpy as np

from deed.ocr.words import Word, unit_box

from .draft import Page, Text
from .fonts import advances, text_width
from .render import SKEW

LINE = 10.0  # px between tops that begin a new line
# Of the type size: how far boxes rise above the base line, fall below it, and lie to the right of the ink; measured.
RISE, FALL, RIGHT = 1.02, 0.30, 0.07
INK = 0.26  # share of a text's area that is black, measured on drawn pages
PAPER = 246  # gray of the paper
_LOOKALIKES = {
    **{"O": "0", "0": "O", "l": "1", "1": "l", "I": "l", "S": "5", "5": "S", "B": "8", "8": "B", "Z": "2", "2": "Z"},
    **{"G": "6", "6": "G", "o": "0", "c": "e", "e": "c", "i": "l", "u": "v", "v": "u", "g": "9", "q": "g", "h": "b"},
    **{"€": "E", "£": "E", "$": "S", "V": "v", "C": "c", "W": "w", "/": "1", "7": "1", "a": "o", "n": "r", "t": "f"},
}


def ocr_words(page: Page, rng: random.Random, noise: float = 1.0) -> list[Word]:
    """The page's words in the order OCR gives them, boxes on 0..1000.

    Args:
        noise: 0 for exactly what is printed where; 1 for reading errors (about 1 word in 100), boxes off by a few units,
            and a page scanned a little askew.
    """
    if not noise:
        return words_of(page)
    turn = max(-SKEW, min(SKEW, rng.gauss(0, 0.5))) * noise
    shift = rng.gauss(0, 4) * noise, rng.gauss(0, 4) * noise
    return misread(words_of(page, turn, shift), rng, noise)


def words_of(page: Page, turn: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> list[Word]:
    """The words without errors, of the page turned clockwise by so many degrees about its middle, and shifted by px.

    Args:
        page: with its texts.
        turn: degrees.
        shift: right and down, pixels.
    """
    sin, cos = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    middle_x, middle_y = page.width / 2, page.height / 2
    placed: list[tuple[float, float, Text]] = []  # top, left
    for text in page.texts:
        x, y = text.x - middle_x, text.y - middle_y
        top = sin * x + cos * y + middle_y + shift[1] - RISE * text.size
        placed.append((top, cos * x - sin * y + middle_x + shift[0] + RIGHT * text.size, text))
    words: list[Word] = []
    for top, left, text in in_order(placed):
        bottom = top + (RISE + FALL) * text.size
        wide = advances(text.font)
        for chunk in text.text.split(" "):
            right = left + sum(map(wide.__getitem__, chunk)) * text.size
            words.append(Word(chunk, unit_box(left, top, right, bottom, page.width, page.height)))
            step = right - left + wide[" "] * text.size
            left, top, bottom = left + cos * step, top + sin * step, bottom + sin * step
    return words


def in_order(placed: list[tuple[float, float, Text]]) -> list[tuple[float, float, Text]]:
    """Texts with their top and left in RapidOCR's order."""
    placed = sorted(placed, key=_top)
    ordered: list[tuple[float, float, Text]] = []
    line: list[tuple[float, float, Text]] = []
    for item in placed:
        if line and item[0] - line[-1][0] >= LINE:
            ordered += sorted(line, key=_left)
            line = []
        line.append(item)
    return ordered + sorted(line, key=_left)


_top, _left = itemgetter(0), itemgetter(1)


def misread(words: list[Word], rng: random.Random, noise: float = 1.0) -> list[Word]:
    """Boxes off by a few units, and now and then a wrong character, a lost mark or word, two words in one.

    Args:
        words: as printed; none is empty.
        rng: decides.
        noise: see `ocr_words`; above 0.
    """
    read: list[Word] = []
    for text, (x0, y0, x1, y1) in words:
        draw = rng.random()
        off = int(draw * 1e8)  # the last digits of one draw move the box
        x0, x1 = min(1000, max(0, x0 + off % 9 - 4)), min(1000, max(0, x1 + off // 9 % 9 - 4))
        y0, y1 = min(1000, max(0, y0 + off // 81 % 7 - 3)), min(1000, max(0, y1 + off // 81 % 7 - 3))
        word = Word(text, (x0, y0, max(x0, x1), max(y0, y1)))
        draw = draw / noise
        if (
            read
            and draw > 0.01
            and draw < (0.025 if read[-1].text[-1] in ".,:" else 0.012)
            and _follows(read[-1], word)
        ):
            before = read.pop()  # OCR loses a space mostly after a mark
            word = Word(before.text + text, (before.box[0], *word.box[1:]))
        elif draw < 0.005:
            word = word._replace(text=_confused(text, rng))
        elif draw < 0.007 and text[-1] in ".,:!?#" and len(text) > 1:
            word = word._replace(text=text[:-1])
        elif 0.007 < draw < 0.009 and len(text) == 1:
            continue
        read.append(word)
    return read


def _follows(before: Word, word: Word) -> bool:
    """Whether a word is the next on the same line, a space apart."""
    return abs(before.box[1] - word.box[1]) < 9 and -9 < word.box[0] - before.box[2] < 18


def _confused(text: str, rng: random.Random) -> str:
    """One character taken for one that looks like it, where there is one."""
    if "rn" in text and rng.random() < 0.5:
        return text.replace("rn", "m", 1)
    places = [i for i, char in enumerate(text) if char in _LOOKALIKES]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + _LOOKALIKES[text[i]] + text[i + 1 :]


def sketch(page: Page, size: int = 64) -> np.ndarray:
    """A stand-in for the page drawn and shrunk: plain paper, darker where text is.

    Returns:
        `[size, size, 3]`, uint8.
    """
    if not page.texts:
        return np.full((size, size, 3), PAPER, np.uint8)
    spots = np.array(
        [
            (t.x, t.x + text_width(t.text, t.font, t.size), t.y - 0.72 * t.size, t.y + 0.1 * t.size, t.gray)
            for t in page.texts
        ],
        np.float32,
    )
    edges = np.arange(size, dtype=np.float32)
    across = _covered(spots[:, 0:1] * (size / page.width), spots[:, 1:2] * (size / page.width), edges)
    down = _covered(spots[:, 2:3] * (size / page.height), spots[:, 3:4] * (size / page.height), edges)
    ink = (down * (INK * (PAPER - spots[:, 4:5]))).T @ across
    gray = (PAPER - np.minimum(ink, PAPER)).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def _covered(start: np.ndarray, end: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How much of each unit cell lies between start and end; `[texts, cells]`."""
    return np.clip(np.minimum(end, edges + 1) - np.maximum(start, edges), 0, 1)
