"""Whole layouts that training never sees: the known keys and labels under other headings, in other arrangements."""

from __future__ import annotations

from . import blocks as b
from . import wording
from .draft import Draft
from .making import Layout, make_layout


def credit_note(d: Draft) -> None:
    """The total large on top, payment data in three columns, the table below all, the parties in the last corner."""
    y = b.pairs(d, ["total"], 60, 100, 300, "left") + 20
    b.heading(d, 740, 100, 1.0, 1.3, unseen=True)
    y = b.grid(d, d.mixed("due", "method", "account", "number", "date"), 60, y + 40, 680, 3, False)
    y = b.table(d, 130, y + 40, 540) + 40
    y = b.address(d, ["name", "company", "city", "email"], 740, y, 1.0)
    b.leftovers(d, 130, y + 10, 500)
    b.note(d, wording.THANKS, 60, 930)


def travel_pass(d: Draft) -> None:
    """A wide ticket with a stub at the right, the name on top, cells below, a foot line of pairs."""
    b.heading(d, 40, 60, size=1.3, unseen=True)
    d.line(40, 530, 80)
    y = b.pairs(d, ["name", "company"], 40, 125, 480, "left")
    b.grid(d, d.has("date", "time", "place"), 40, y + 25, 480, 3, True)
    d.upright(560, 20, 370)
    b.pairs(d, ["number", "reference", "weight"], 580, 90, 200, "above")
    b.line_of(d, list(d.values), 40, 345, 40)


def service_report(d: Draft) -> None:
    """Labels and values in two halves, a sentence in the middle, the clerk's line at the foot."""
    y = b.heading(d, 400, 80, 0.5, 1.4, unseen=True)
    d.line(50, 750, y - 10)
    left = b.pairs(d, ["number", "reference", "department"], 60, y + 40, 300, "spread")
    right = b.pairs(d, ["date", "time", "weight"], 430, y + 40, 300, "spread")
    y = b.note(d, wording.GREETINGS, 60, max(left, right) + 40)
    y = b.grid(d, ["name", "phone", "street", "city"], 60, y + 60, 680, 2, True)
    y = b.table(d, 60, y + 40, 680, ruled=False) + 30
    b.totals(d, 60, y, 300)
    y = b.form_lines(d, list(d.values), 60, y + 90, 660)
    if y < 940:
        b.note(d, wording.TERMS, 400, 950, 0.5)


def guest_account(d: Draft) -> None:
    """A slip of middle width: room and name in large letters, amounts above the lines they sum up, sender at the foot."""
    y = b.address(d, ["name"], 300, 80, 0.5, big=True)
    y = b.pairs(d, ["place", "date"], 60, y + 20, 480, "spread")
    y = b.heading(d, 60, y + 40, size=1.2, unseen=True)
    y = b.totals(d, 60, y + 10, 480) + 20
    y = b.table(d, 60, y, 480, head=False) + 20
    y = b.line_of(d, ["number", "method", "time"], 60, y + 10, 60)
    y = b.address(d, ["company", "street", "city"], 300, y + 40, 0.5)
    b.leftovers(d, 60, y + 20, 480)
    b.note(d, wording.THANKS, 300, 860, 0.5)


UNSEEN: dict[str, Layout] = {
    "credit_note": make_layout(
        credit_note, "Invoice", "number date total", "due method account name company city email", more=4, rows=(1, 3)
    ),
    "travel_pass": make_layout(
        travel_pass,
        "Pass",
        "number date time place",
        "name company reference weight total method",
        more=4,
        places="Seat Gate",
        paper=(800, 400),
    ),
    "service_report": make_layout(
        service_report,
        "Order",
        "number date time",
        "reference department weight name phone street city total clerk",
        more=5,
        rows=(0, 2),
        places="Room Desk",
    ),
    "guest_account": make_layout(
        guest_account,
        "Statement",
        "place date total number",
        "name method time company street city tax account",
        more=4,
        rows=(1, 3),
        food=True,
        places="Room Table",
        paper=(600, 900),
        size=21,
    ),
}
