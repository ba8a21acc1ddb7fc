"""Pages with their questions, as the paperwork recipe draws them: real ones, forms, the generator's, and pictures.

A real page is a run of a page's words, so that short pages come first; its questions are those that the run answers by
itself, as a window of a longer page has to be answered later.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deed.data.base import UNANSWERABLE
from deed.data.debian.absences import absences
from deed.data.debian.pages import DebianPage
from deed.data.debian.questions import RULES, questions_of
from deed.data.debian.store import PageStore
from deed.data.synthetic import pages
from deed.data.synthetic.copying import copying_page
from deed.data.synthetic.forms.kept import KeptForm
from deed.data.synthetic.grids import grid_page
from deed.data.synthetic.pages.questions import ask
from deed.data.synthetic.pages.simulate import PAPER, misread
from deed.ocr.words import Word

from .easy_vqa import SHAPES, Pictures, turned

SIDE = 64  # pixels of a picture
LINE = 8  # thousandths of the page's height: words whose middles are within are of one line to an OCR engine
# Of kinds that any page has, at most, by the hundred words.
COMMON = {"reading": 2, "next word": 2, "presence": 2, "unanswerable": 1}
LONGEST_READING = 8  # words
OF_FIRST_PAGES = ("title", "author", "date", "version")
SMALLEST_TABLE = 14  # words
KNOWN = 60  # words of a real page, to choose from for one to copy from

Question = tuple[str, str, str]  # kind, question, answer


@dataclass(frozen=True)
class AskedPage:
    """A page and what is asked about it.

    Attributes:
        source: where it is from: `"real"`, `"form"`, `"drawn"`, `"copy"` or `"picture"`.
        words: with boxes, in the order in which they are read.
        asked: questions.
        image: `[64, 64, 3]` uint8, or None.
    """

    source: str
    words: Sequence[Word]
    asked: list[Question]
    image: Any = field(default=None, repr=False)


def pages_by_kind(store: PageStore) -> dict[str, list[int]]:
    """Of each kind of question that follows from a rule the pages that answer one: dates are on one page of twenty, and a
    model that is asked about pages as they come learns to say that there is none."""
    found: dict[str, list[int]] = {}
    for index in range(len(store)):
        page = store.page(index)
        for kind in {asked.kind for rule in RULES for asked in rule(page)}:
            found.setdefault(kind, []).append(index)
    return dict(sorted(found.items()))


def page_of_kind(
    store: PageStore, by_kind: Mapping[str, Sequence[int]], rng: random.Random, longest: int, noise: float = 0.5
) -> AskedPage:
    """Like `real_page`, of a page that answers a question of a kind chosen by lot, rare ones nearly as often as common ones.

    Args:
        store: pages to choose from.
        by_kind: as `pages_by_kind` gives it.
        rng: decides everything.
        longest: words of the run.
        noise: see `real_page`.
    """
    kind = rng.choices(list(by_kind), [len(indices) ** 0.25 for indices in by_kind.values()])[0]
    index = rng.choice(by_kind[kind])
    length = store.length(index)
    count = min(length, longest)
    for tried in range(4):
        top = tried == 0 and (kind in OF_FIRST_PAGES or rng.random() < 0.4)
        page = store.page(index, 0 if top else rng.randint(0, length - count), count)
        asked = questions_of(page, rng, COMMON["next word"] * hundreds(page.words))
        if any(a.kind == kind for a in asked):
            break
    asked += absences(page, rng, few(page, rng))
    return AskedPage("real", _read(page.all_words, rng, noise), [(a.kind, a.question, a.answer) for a in asked])


def real_page(
    store: PageStore, rng: random.Random, longest: int, noise: float = 0.5, absent: bool = False
) -> AskedPage:
    """A run of words of a real page with the questions that it answers.

    Args:
        store: pages to choose from.
        rng: decides everything.
        longest: words of the run.
        noise: share of pages that are read as an OCR engine reads them: line by line across the page, with slips.
        absent: also ask for what other runs of the page may have (`absences`).
    """
    tries = []
    for _ in range(2):
        index = rng.randrange(len(store))
        length = store.length(index)
        count = min(length, longest)
        # Tops of pages have titles, authors and dates.
        first = 0 if rng.random() < 0.4 else rng.randint(0, length - count)
        page = store.page(index, first, count)
        tries.append((page, questions_of(page, rng, COMMON["next word"] * hundreds(page.words))))
        if rng.random() < 0.3:
            break
    # Of two, the one with more to ask beyond what any text has.
    page, asked = max(tries, key=lambda found: sum(a.kind not in COMMON for a in found[1]))
    if absent:
        asked += absences(page, rng, few(page, rng))
    return AskedPage("real", _read(page.all_words, rng, noise), [(a.kind, a.question, a.answer) for a in asked])


class FormPicker:
    """Forms by their length.

    Args:
        forms: to choose from.
    """

    def __init__(self, forms: Sequence[KeptForm]) -> None:
        self.forms = sorted(forms, key=lambda form: len(form.words))
        self.lengths = [len(form.words) for form in self.forms]

    def page(self, rng: random.Random, longest: int, noise: float = 0.5) -> AskedPage:
        """A form of at most so many words, or the shortest.

        Args:
            rng: decides everything.
            longest: words.
            noise: see `real_page`.
        """
        form = self.forms[rng.randrange(max(1, bisect.bisect_right(self.lengths, longest)))]
        return AskedPage("form", _read(form.all_words, rng, noise), [(a, b, c) for a, b, c in form.asked])


def drawn_page(rng: random.Random, fields: int | None) -> AskedPage:
    """A page of the generator of `deed.data.synthetic.pages`, as OCR might read it.

    Args:
        rng: decides everything.
        fields: on the page; None: a whole page.
    """
    page = pages.make_page(rng.choice(tuple(pages.KNOWN)), rng, fields)
    asked = [(question.kind, question.question, question.answers[0]) for question in ask(page, rng)]
    return AskedPage("drawn", pages.ocr_words(page, rng), asked, pages.sketch(page))


def hundreds(words: Sequence[Any]) -> int:
    """Hundreds of words begun, 1 where there are none: a long page is asked more, since most of its cost is encoding it."""
    return max(1, math.ceil(len(words) / 100))


def few(page: DebianPage, rng: random.Random) -> int:
    """How many questions a run is asked for what it lacks: one in two hundred words. With one in a hundred a model came to say
    that it lacks things that are there."""
    return (hundreds(page.words) + rng.randint(0, 1)) // 2


def page_to_copy(
    store: PageStore, rng: random.Random, longest: int, noise: float = 0.0, tables: float = 0.0
) -> AskedPage:
    """Strings that nobody can guess, half of them words of a real page in random order.

    Args:
        store: of the real pages.
        rng: decides everything.
        longest: words.
        noise: see `real_page`.
        tables: share of pages that are a table.
    """
    index = rng.randrange(len(store))
    known = [word.text for word in store.page(index, 0, KNOWN).all_words]
    # Without `tables` nothing is drawn for it: validation pages stay the same.
    make = grid_page if tables and longest >= SMALLEST_TABLE and rng.random() < tables else copying_page
    words, asked = make(rng, longest, known)
    return AskedPage("copy", _read(words, rng, noise), asked)


def blanked(page: AskedPage) -> AskedPage:
    """The page without its words, asked the same: nothing is there. What cannot be kept to words of a page has to be spelled.

    Args:
        page: any but a picture.
    """
    asked = [("blank", question, "no" if kind == "presence" else UNANSWERABLE) for kind, question, _ in page.asked]
    return AskedPage(page.source, [], asked)


class PicturePicker:
    """easy-vqa's pictures, each with all of its questions.

    Args:
        pictures: as `easy_vqa.load_pictures` gives them.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.images, questions = pictures
        self.of_image: list[list[Question]] = [[] for _ in self.images]
        for question, answer, image in questions:
            self.of_image[image].append(("picture", question, answer))

    def page(self, rng: random.Random, count: int | None = None) -> AskedPage:
        """A picture, turned one of eight ways.

        Args:
            rng: decides everything.
            count: of its questions, which shape it is among them: a tenth of all, and the hardest to learn; None: all.
        """
        image = rng.randrange(len(self.images))
        picture, asked = turned(self.images[image], rng.randrange(8)), list(self.of_image[image])
        if count is not None:
            rng.shuffle(asked)
            asked = sorted(asked, key=lambda question: question[2] not in SHAPES)[:count]
        return AskedPage("picture", [], asked, picture)


def choose(asked: Sequence[Question], count: int, rng: random.Random, times: int = 1) -> list[Question]:
    """At most so many questions, in random order, of the common kinds only a few.

    Args:
        asked: to choose from.
        count: at most, `times` as many.
        rng: decides.
        times: of a long page, see `hundreds`.
    """
    mixed = rng.sample(list(asked), len(asked))
    count, left = count * times, {kind: limit * times for kind, limit in COMMON.items()}
    chosen: list[Question] = []
    for question in sorted(mixed, key=lambda q: q[0] in left):
        if len(chosen) < count and left.get(question[0], 1):
            chosen.append(question)
            if question[0] in left:
                left[question[0]] -= 1
    # A page with much to ask would never be asked what it does not say.
    spare = [question for question in mixed if question[0] in COMMON and question not in chosen]
    if spare and len(chosen) == count and rng.random() < 0.5:
        chosen[rng.randrange(count)] = spare[0]
    rng.shuffle(chosen)
    return chosen


def readings(words: Sequence[Word], rng: random.Random, count: int = 2) -> list[Question]:
    """Questions whose answers are several words of the page as they stand there: every token of them teaches copying, which
    all other kinds take, and of which short answers tell little.

    Args:
        words: of the page.
        rng: decides.
        count: at most.
    """
    texts = [word.text for word in words]
    found: list[Question] = []
    if 1 < len(texts) <= LONGEST_READING:
        found.append(("reading", "what does it say?", " ".join(texts)))
    pairs = Counter(itertools.pairwise(texts))
    starts = [i for i, pair in enumerate(itertools.pairwise(texts)) if pairs[pair] == 1 and i + 2 < len(texts)]
    for i in rng.sample(starts, min(count, len(starts))):
        answer = texts[i + 2 : i + 2 + rng.randint(2, LONGEST_READING)]
        found.append(("reading", f'which words come after "{texts[i]} {texts[i + 1]}"?', " ".join(answer)))
    return found[:count]


def thumbnail(words: Sequence[Word]) -> np.ndarray:
    """A stand-in for a page's picture: paper, grayer where words are. `[64, 64, 3]` uint8."""
    fine = 4 * SIDE
    ink = np.zeros((fine, fine), np.float32)
    for _, (x0, y0, x1, y1) in words:
        ink[y0 * fine // 1001 : y1 * fine // 1001 + 1, x0 * fine // 1001 : x1 * fine // 1001 + 1] = 1
    share = ink.reshape(SIDE, 4, SIDE, 4).mean((1, 3))
    gray = (PAPER - 0.26 * PAPER * share).astype(np.uint8)
    return np.repeat(gray[..., None], 3, -1)


def _read(words: Sequence[Word], rng: random.Random, noise: float) -> list[Word]:
    """Words as the text layer has them, or as an OCR engine might read them."""
    if rng.random() >= noise:
        return list(words)
    return misread(by_line(words) if rng.random() < 0.7 else list(words), rng)


def by_line(words: Sequence[Word]) -> list[Word]:
    """Words from top to bottom, those of one height from left to right, whatever column they are in."""
    ordered: list[Word] = []
    line: list[Word] = []
    for word in sorted(words, key=_middle):
        if line and _middle(word) - _middle(line[-1]) > LINE:
            ordered += sorted(line, key=_left)
            line = []
        line.append(word)
    return ordered + sorted(line, key=_left)


def _middle(word: Word) -> float:
    return (word.box[1] + word.box[3]) / 2


def _left(word: Word) -> int:
    return word.box[0]


__all__ = [
    "AskedPage",
    "FormPicker",
    "PicturePicker",
    "blanked",
    "by_line",
    "choose",
    "drawn_page",
    "hundreds",
    "page_of_kind",
    "page_to_copy",
    "pages_by_kind",
    "readings",
    "real_page",
    "thumbnail",
]
