"""A page while it is being set: placed texts, lines and boxes, and which values are printed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from . import wording
from .fonts import FAMILIES, text_width
from .values import LONG, Row


class Text(NamedTuple):
    """One printed line.

    Attributes:
        text: without line breaks.
        x, y: left end of the base line, px.
        font: key of `fonts.font_path`.
        size: px per em.
        gray: 0 black to 255 white.
    """

    text: str
    x: float
    y: float
    font: str
    size: int
    gray: int


class Rule(NamedTuple):
    """A line, where both x or both y are equal, or a box; px. `fill`: a gray to fill the box with, None for none."""

    x0: float
    y0: float
    x1: float
    y1: float
    gray: int
    fill: int | None = None


_FAMILIES = tuple(FAMILIES)
_EDGE = 8.0  # px at the paper's sides that no text comes into


@dataclass
class Page:
    """A set page.

    Attributes:
        layout: its name.
        noun: the kind of document, one of `wording.NOUNS`; `place`: the kind of place, of `wording.PLACES`.
        width, height: px.
        texts, rules: what is printed.
        fields: key to value as printed, in reading order.
        rows: table lines, each item, quantity and price as printed.
        main: what the question for all fields asks for, see `main_keys`.
    """

    layout: str
    noun: str
    place: str
    width: int
    height: int
    texts: list[Text] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    main: tuple[str, ...] = ()


def main_keys(keys: list[str]) -> tuple[str, ...]:
    """The first four short keys of a page in canonical order; where it has fewer than three, long ones make up three.

    Args:
        keys: in canonical order (`values.KEYS`).
    """
    short = [key for key in keys if key not in LONG][:4]
    return tuple(short + [key for key in keys if key in LONG][: max(0, 3 - len(short))])


class Draft:
    """Sets one page.

    Attributes:
        values: what is still to print.
        whole: whether headings, thanks and the like are wanted.
        size: of plain text, px; `pitch`: from line to line, px.
    """

    def __init__(self, page: Page, values: dict[str, str], rng: random.Random, size: int, whole: bool) -> None:
        self.page, self.drawn, self.values = page, values, dict(values)
        self.rng, self.whole = rng, whole
        self.size = size + rng.randint(-2, 2)
        self.pitch = self.size * rng.uniform(1.55, 2.1)
        self.family = rng.choice(_FAMILIES)
        self.gray = rng.choice((0, 0, 20, 40, 60))
        self.upper = rng.random() < 0.15
        self.colon = rng.random() < 0.55
        self.bold_labels, self.bold_values = rng.choice(((False, False), (False, False), (True, False), (False, True)))
        self._reading: list[tuple[float, float, str]] = []

    def has(self, *keys: str) -> list[str]:
        """Those of the keys that are still to print."""
        return [key for key in keys if key in self.values]

    def mixed(self, *keys: str) -> list[str]:
        """`has`, in an order that differs from page to page: as given, or shuffled."""
        left = self.has(*keys)
        if self.rng.random() < 0.5:
            self.rng.shuffle(left)
        return left

    def width(self, text: str, size: float = 1.0, bold: bool = False) -> float:
        """Of a text on this page, px.

        Args:
            text: as printed.
            size: times the page's text size.
            bold: in bold letters.
        """
        return text_width(text, self.family + "-bold" if bold else self.family, self.size * size)

    def put(
        self,
        text: str,
        x: float,
        y: float,
        size: float = 1.0,
        bold: bool = False,
        align: float = 0.0,
        room: float = math.inf,
    ) -> float:
        """Print a text, smaller if need be, and return where it ends, px.

        Args:
            x: of its left end, center or right end with `align` 0, 0.5, 1.
            y: of its base line.
            size: relative to the page's.
            room: px it may be wide; never more than the paper is.
        """
        font = self.family + "-bold" if bold else self.family
        pixels = max(12, round(self.size * size))
        width = text_width(text, font, pixels)
        room = min(room, self.page.width - 2 * _EDGE)
        if width > room:
            pixels = max(10, int(pixels * room / width))
            width = text_width(text, font, pixels)
        x = min(max(_EDGE, x - align * width), self.page.width - _EDGE - width)
        self.page.texts.append(Text(text, x, y, font, pixels, self.gray))
        return x + width

    def line(self, x0: float, x1: float, y: float) -> None:
        """A ruled line across.

        Args:
            x0, x1: from where to where, pixels.
            y: at which height.
        """
        self.page.rules.append(Rule(x0, y, x1, y, 120))

    def upright(self, x: float, y0: float, y1: float) -> None:
        """A ruled line downwards.

        Args:
            x: where, pixels.
            y0, y1: from where to where.
        """
        self.page.rules.append(Rule(x, y0, x, y1, 120))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: int | None = None) -> None:
        """A rectangle, of a gray if given.

        Args:
            x0, y0, x1, y1: its corners, pixels.
            fill: level of the gray, 0..255; None: not filled.
        """
        self.page.rules.append(Rule(x0, y0, x1, y1, 150, fill))

    def fill_in(self, text: str) -> str:
        """A wording with the page's kind of document and place."""
        page = self.page
        return (
            text.replace("{N}", page.noun)
            .replace("{n}", page.noun.lower())
            .replace("{P}", page.place)
            .replace("{p}", page.place.lower())
        )

    def take(self, key: str, x: float, y: float) -> str:
        """A value, marked as printed at a place.

        Args:
            key: of the value, which is removed from those still to print.
            x, y: the place, pixels.
        """
        self._reading.append((round(y / 12), x, key))
        return self.values.pop(key)

    def label(self, key: str, colon: bool = False) -> str:
        """One of a key's labels, in the page's style."""
        text = self.fill_in(self.rng.choice(wording.LABELS[key]))
        if self.upper:
            text = text.upper()
        return text + ":" if colon else text

    def value(
        self,
        key: str,
        x: float,
        y: float,
        size: float = 1.0,
        bold: bool = False,
        align: float = 0.0,
        room: float = math.inf,
    ) -> float:
        """Print a value alone; the result is as of `put`.

        Args:
            key: of the value.
            x, y, size, bold, align, room: as for `put`.
        """
        return self.put(self.take(key, x, y), x, y, size, bold or self.bold_values, align, room)

    def pair(
        self, key: str, x: float, y: float, size: float = 1.0, align: float = 0.0, room: float = math.inf
    ) -> float:
        """Print label and value as one text; the result is as of `put`.

        Args:
            key: of the value.
            x, y, size, align, room: as for `put`.
        """
        return self.put(f"{self.label(key, self.colon)} {self.take(key, x, y)}", x, y, size, False, align, room)

    def finish(self, lower: float) -> None:
        """Order the page's fields as they are read, and move all down by a share of the empty paper at the foot."""
        page = self.page
        page.fields = {key: self.drawn[key] for _, _, key in sorted(self._reading)}
        down = lower * (page.height - 30 - max(text.y for text in page.texts))
        if down > 0:
            page.texts = [text._replace(y=text.y + down) for text in page.texts]
            page.rules = [rule._replace(y0=rule.y0 + down, y1=rule.y1 + down) for rule in page.rules]
