"""Questions about a real page whose answers follow from its text: each is derived by a rule and can be checked again.

A rule answers only where the page leaves no doubt: a label that stands twice, a heading number in a list of contents, a word
pair with two continuations give no question.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deed.data.base import UNANSWERABLE

from .pages import DebianPage, Line
from .tables import aligned_tables

YES, NO = "yes", "no"
TOP, BOTTOM = 90, 880  # thousandths: page numbers stand above or below
LARGE = 1.15  # of the body's type size: what a title has at least


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Attributes:
        kind: the rule it is from; the kinds are those of `KINDS`.
    """

    kind: str
    question: str
    answer: str


MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\.?"
)
DATE = re.compile(
    rf"\b(?:{MONTH} \d{{1,2}}(?:st|nd|rd|th)?, ?\d{{4}}|\d{{1,2}}(?:st|nd|rd|th)? {MONTH},? \d{{4}}|{MONTH},? \d{{4}}"
    r"|\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{4})(?!\w)"
)
VERSION = re.compile(r"\b(?:version|release|v\.) ?:? ?v?(\d+(?:\.\d+)+[a-z]?\w{0,6})(?![\w.]*\d)", re.IGNORECASE)
MAIL = re.compile(r"(?<![\w.])[\w.+-]+@[\w-]+(?:\.[\w-]+)+(?<![.-])")
LINK = re.compile(r"(?:https?|ftp)://[^\s<>()\[\]{}\"“”]+[\w/]")
HEADING = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,3})\.? ([A-Z][^.]{2,70})")
CAPTION = re.compile(r"(Figure|Fig\.|Table) (\d{1,3}(?:\.\d{1,3})*)[:.] ?(.{3,90})")
LABEL = re.compile(r"([A-Z][A-Za-z]+(?: [A-Za-z]+){0,2}): ?(\S.{0,60})")
NAME = re.compile(r"[A-Z][\w’'.-]*\.?(?: (?:[A-Z][\w’'.-]*|van|von|de|der|di|la|le)){1,4}")
LEADERS = re.compile(r"(?:\. ?){4,}|…")


def questions_of(page: DebianPage, rng: random.Random, copies: int = 2) -> list[Asked]:
    """Every question that the page answers beyond doubt, and some that it does not answer.

    Args:
        page: the page.
        rng: chooses among many, and the unanswerable ones.
        copies: questions of each kind, at most.
    """
    found = [asked for rule in RULES for asked in rule(page)]
    by_kind: dict[str, list[Asked]] = defaultdict(list)
    for asked in found:
        by_kind[asked.kind].append(asked)
    kept = [asked for kind in by_kind for asked in rng.sample(by_kind[kind], min(copies, len(by_kind[kind])))]
    kept += _followers(page, rng, copies)
    kept += _presence(page, rng, copies)
    kept += _unanswerable(page, set(by_kind), rng)
    return kept


def answer_again(page: DebianPage, question: str) -> list[str]:
    """The answers that the rules give to one of their own questions: one, where the page leaves no doubt."""
    return sorted({asked.answer for rule in RULES for asked in rule(page) if asked.question == question})


def body_size(page: DebianPage) -> int:
    """Type size of most of a page's words."""
    return Counter(round(size) for size in page.sizes).most_common(1)[0][0]


def _title(page: DebianPage) -> Iterator[Asked]:
    if page.number != 1:
        return
    lines = page.page_lines
    largest = max(line.size for line in lines)
    big = [i for i, line in enumerate(lines) if line.size >= 0.93 * largest]
    body = body_size(page)
    if big != list(range(big[0], big[0] + len(big))) or len(big) > 3 or largest < LARGE * body:
        return  # several places in that type, or all of the page
    text = " ".join(lines[i].text for i in big)
    if 1 <= len(text.split()) <= 16 and len(re.findall(r"[A-Za-z]", text)) >= 4 and lines[big[0]].top < 600:
        yield Asked("title", "what is the title?", text)


def _author(page: DebianPage) -> Iterator[Asked]:
    if page.number != 1:
        return
    names = [n for line in page.page_lines for n in re.findall(rf"\b[Bb]y:? ({NAME.pattern})$", line.text)]
    declared = page.author.strip()
    if not names and NAME.fullmatch(declared):
        names = [declared for line in page.page_lines if re.search(rf"(?<!\w){re.escape(declared)}(?!\w)", line.text)][
            :1
        ]
    if len(set(names)) == 1 and len(names[0]) <= 40:
        yield Asked("author", "who is the author?", names[0])


def _only(kind: str, question: str, found: Sequence[str]) -> Iterator[Asked]:
    if len(set(found)) == 1:
        yield Asked(kind, question, found[0])


def _date(page: DebianPage) -> Iterator[Asked]:
    if page.number == 1:
        yield from _only("date", "what is the date?", [d for line in page.page_lines for d in DATE.findall(line.text)])


def _version(page: DebianPage) -> Iterator[Asked]:
    if page.number == 1:
        found = [v for line in page.page_lines for v in VERSION.findall(line.text)]
        yield from _only("version", "what is the version?", found)


def _addresses(page: DebianPage) -> Iterator[Asked]:
    words = [word.text.strip(".,;:()<>") for word in page.all_words]
    yield from _only("e-mail", "what is the e-mail address?", [w for w in words if MAIL.fullmatch(w)])
    yield from _only("url", "what is the web address?", [w for w in words if LINK.fullmatch(w)])


def _page_number(page: DebianPage) -> Iterator[Asked]:
    lines = page.page_lines
    edge = [line.text for line in (*lines[:2], *lines[-2:]) if not TOP <= line.top <= BOTTOM]
    found = [n for text in edge for n in re.findall(r"^(?:[Pp]age )?(\d{1,4}|[ivxl]{1,6})(?: ?(?:/|of) ?\d+)?$", text)]
    if len(edge) and len(found) == 1:
        yield Asked("page number", "what is the page number?", found[0])


def headings(page: DebianPage) -> list[tuple[str, str]]:
    """Numbered headings of the page's sections, `(number, name)`: larger than the text or set apart, no list of contents."""
    lines = page.page_lines
    if sum(bool(LEADERS.search(line.text)) for line in lines) >= 3:
        return []
    body = body_size(page)
    found = []
    for line in lines:
        match = HEADING.fullmatch(line.text)
        if match and line.size >= 1.12 * body and not re.search(r" \d+$", match[2]):
            found.append((match[1], match[2]))
    return found


def _headings(page: DebianPage) -> Iterator[Asked]:
    found = headings(page)
    numbers, names = Counter(n for n, _ in found), Counter(name.lower() for _, name in found)
    for number, name in found:
        if numbers[number] == 1 and names[name.lower()] == 1:
            yield Asked("heading", f"what is the heading of section {number}?", name)
            yield Asked("section number", f'what is the number of the section "{name}"?', number)


def _captions(page: DebianPage) -> Iterator[Asked]:
    lines = page.page_lines
    found: dict[str, list[str]] = defaultdict(list)
    for i, line in enumerate(lines):
        match = CAPTION.fullmatch(line.text)
        # A caption of one line only: it ends with a full stop, or the next line is far away.
        if match and (line.text.endswith(".") or i + 1 == len(lines) or lines[i + 1].top - line.top > 30):
            found[f"{'figure' if match[1][0] == 'F' else 'table'} {match[2]}"].append(match[3].strip())
    for name, captions in found.items():
        yield from _only("caption", f"what does the caption of {name} say?", captions)


def _labels(page: DebianPage) -> Iterator[Asked]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in page.page_lines:
        match = LABEL.fullmatch(line.text)
        if match and match[1].lower() not in ("note", "example", "figure", "table", "warning", "http", "https"):
            found[match[1]].append(match[2].strip())
    for label, values in found.items():
        if len(values) == 1 and len(values[0].split()) <= 6:
            yield Asked("label", f'what comes after "{label}:"?', values[0])


def _tables(page: DebianPage) -> Iterator[Asked]:
    for number, table in enumerate(aligned_tables(page.page_lines), 1):
        heads, rows = table[0], table[1:]
        if number > 1 or len({h.lower() for h in heads}) < len(heads) or len({r[0].lower() for r in rows}) < len(rows):
            continue
        # A head names its column: words, and no more of them than cells below that are none.
        if not all(re.fullmatch(r"[A-Za-z][\w /()%.-]+", head) for head in heads[1:]):
            continue
        if not any(re.search(r"\d", cell) for row in rows for cell in row[1:]):
            continue
        for row in rows:
            for column in range(1, len(heads)):
                yield Asked("table", f'what is the "{heads[column]}" of "{row[0]}"?', row[column])


RULES: tuple[Callable[[DebianPage], Iterator[Asked]], ...] = (
    *(_title, _author, _date, _version, _addresses, _page_number, _headings, _captions, _labels, _tables),
)
KINDS = (
    *("title", "author", "date", "version", "e-mail", "url", "page number", "heading", "section number", "caption"),
    *("label", "table", "next word", "presence", "unanswerable"),
)


def _followers(page: DebianPage, rng: random.Random, count: int) -> list[Asked]:
    """What comes after a pair of words that stands once on the page: teaches copying."""
    words = [word.text for word in page.all_words]
    pairs: dict[tuple[str, str], list[str]] = defaultdict(list)
    for first, second, third in zip(words, words[1:], words[2:], strict=False):
        pairs[first, second].append(third)
    sure = [
        (a, b, c[0]) for (a, b), c in pairs.items() if len(c) == 1 and all(re.search(r"\w", x) for x in (a, b, c[0]))
    ]
    chosen = rng.sample(sure, min(count, len(sure)))
    return [Asked("next word", f'which word comes after "{a} {b}"?', c) for a, b, c in chosen]


def _presence(page: DebianPage, rng: random.Random, count: int) -> list[Asked]:
    """Whether a word is on the page; those that are not are from `STRANGERS`, or letters of one that is, in another order."""
    text = page_text(page).lower()
    words = sorted({word.text.strip(".,;:()\"'").lower() for word in page.all_words})
    plain = [w for w in words if re.fullmatch(r"[a-z]{4,14}", w)]
    found = []
    for _ in range(count):
        if plain and rng.random() < 0.5:
            found.append(Asked("presence", f'is the word "{rng.choice(plain)}" on the page?', YES))
        else:
            strangers = [w for w in STRANGERS if w not in text]
            found.append(Asked("presence", f'is the word "{rng.choice(strangers)}" on the page?', NO))
    return found


STRANGERS = (
    "umbrella harbour violin lantern orchard passport glacier saddle pumpkin lighthouse compass velvet tunnel parrot bakery "
    "receipt journey butter castle winter garden doctor bridge candle pepper railway window thunder mirror basket engine "
    "system package section number value option manual table figure license library command version source output example"
).split()


def _unanswerable(page: DebianPage, kinds: set[str], rng: random.Random) -> list[Asked]:
    """A question of a kind that this page has no answer to."""
    text = page_text(page)
    choices = []
    if not MAIL.search(text) and "@" not in text:
        choices.append("what is the e-mail address?")
    if not LINK.search(text) and "www." not in text:
        choices.append("what is the web address?")
    if not DATE.search(text) and not re.search(r"\b(19|20)\d\d\b", text):
        choices.append("what is the date?")
    if not re.search(r"version|release|\bv\d", text, re.IGNORECASE):
        choices.append("what is the version?")
    used = {number for number, _ in headings(page)}
    number = f"{rng.randint(1, 12)}.{rng.randint(1, 9)}"
    if number not in used and not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", text):
        choices.append(f"what is the heading of section {number}?")
    figure = rng.randint(1, 40)
    if not re.search(rf"(Figure|Fig\.) {figure}\b", text):
        choices.append(f"what does the caption of figure {figure} say?")
    foreign = [question for question, word in FOREIGN if not re.search(word, text, re.IGNORECASE)]
    if foreign:
        choices.append(rng.choice(foreign))
    return [Asked("unanswerable", rng.choice(choices), UNANSWERABLE)] if choices else []


#: Questions that such pages do not answer, each with what must not be on the page for it to be so.
FOREIGN = (
    ("what is the weather?", "weather"),
    ("what is the total?", "total"),
    ("what is the invoice number?", "invoice"),
    ("what is the phone number?", r"phone|\btel\b|\bfax\b"),
    ("what is the due date?", r"\bdue\b|date"),
    ("what is the date of birth?", "birth|born"),
    ("who is the customer?", "customer"),
    ("what is the price of the ticket?", "price|ticket"),
    ("what color is the car?", r"\bcars?\b|colou?r"),
    ("how much is the tax?", r"\btax"),
    ("who won the game?", r"\bgame|\bwon\b|\bwins?\b"),
    ("what is the capital of France?", "France|Paris"),
    ("at what time does the train leave?", r"\btrains?\b"),
    ("what is the salary?", "salary"),
)


def page_text(page: DebianPage) -> str:
    """The page's text, a line per line."""
    return "\n".join(line.text for line in page.page_lines)


__all__ = [
    "KINDS",
    "UNANSWERABLE",
    "Asked",
    "Line",
    "answer_again",
    "headings",
    "page_text",
    "questions_of",
]
