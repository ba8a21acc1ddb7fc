"""Small papers that training sees: receipts, tickets, business cards."""

from __future__ import annotations

from . import blocks as b
from . import wording
from .draft import Draft


def receipt_shop(d: Draft) -> None:
    """A narrow slip: the shop centerd, lines without a head, spread totals, date and time at the end or the top."""
    y = b.address(d, ["company", "street", "city", "phone"], 210, 60 + d.rng.uniform(0, 20), 0.5, big=True)
    if d.rng.random() < 0.5:
        y = b.heading(d, 210, y + 10, 0.5, 1.2)
    when = d.rng.random()
    if when < 0.3:
        y = b.line_of(d, ["date", "time"], 30, y + 10, 60, bare=d.rng.random() < 0.5)
    elif when < 0.6:
        y = b.pairs(d, d.mixed("number", "date", "time"), 30, y + 10, 360, d.rng.choice(("left", "spread")))
    d.line(24, 396, y - d.pitch * 0.5)
    y = b.table(d, 26, y + 15, 368, head=d.rng.random() < 0.3, ruled=False)
    d.line(24, 396, y - d.pitch * 0.6)
    y = b.totals(d, 30, y + 15, 360)
    y = b.pairs(d, d.mixed("method", "clerk", "account"), 30, y + 8, 360, d.rng.choice(("left", "spread")))
    y = b.pairs(d, list(d.values), 30, y + 8, 360, d.rng.choice(("left", "spread", "columns")))
    b.note(d, wording.THANKS, 210, y + 30, 0.5)


def receipt_meal(d: Draft) -> None:
    """A slip of a restaurant: table and clerk on top, dishes, totals, number and time at the bottom."""
    y = b.note(d, wording.THANKS, 210, 50, 0.5, 0.3)
    y = b.address(d, ["company", "city"], 210, y + 20, 0.5, big=True)
    style = d.rng.choice(("left", "spread", "columns"))
    y = b.pairs(d, d.mixed("place", "clerk", "date"), 32, y + 20, 356, style)
    y = b.table(d, 30, y + 15, 360, head=d.rng.random() < 0.5, ruled=d.rng.random() < 0.5) + 5
    y = b.totals(d, 32, y + 10, 354)
    y = b.pairs(d, d.mixed("number", "method", "time", "date"), 32, y + 20, 356, style)
    y = b.leftovers(d, 32, y, 356)
    b.note(d, wording.TERMS[-2:], 210, y + 30, 0.5, 0.4)


def parking(d: Draft) -> None:
    """A small ticket: large time or place, the rest around it."""
    x = 40 + d.rng.uniform(0, 20)
    y = b.heading(d, x, 60, size=1.4)
    if d.rng.random() < 0.5:
        b.pairs(d, ["number"], 480, 60, 270, d.rng.choice(("left", "spread")))
    keys = d.mixed(*d.values)
    if d.rng.random() < 0.5:
        y = b.grid(d, keys, x, y + 25, 700, 3, d.rng.random() < 0.5)
    else:
        half = (len(keys) + 1) // 2
        style = d.rng.choice(("left", "columns", "spread"))
        left = b.pairs(d, keys[:half], x, y + 15, 310, style)
        y = max(left, b.pairs(d, keys[half:], 420, y + 15, 320, style))
    if y < 360:
        b.note(d, wording.TERMS, x, 378)


def card(d: Draft) -> None:
    """A business card: values mostly without labels, at the left, the right or centerd."""
    align, x = d.rng.choice(((0.0, 60), (0.0, 90), (0.5, 400), (1.0, 740)))
    y = b.address(d, ["company", "name"] if d.rng.random() < 0.5 else ["name"], x, 80, align, big=True)
    y = b.address(d, d.has("title", "department"), x, y, align) + 15
    y = b.address(d, ["company", "street", "city"], x, y, align)
    for key in d.mixed(*d.values):
        if d.rng.random() < 0.5:
            d.pair(key, x, y, align=align)
        else:
            d.value(key, x, y, align=align)
        y += d.pitch
