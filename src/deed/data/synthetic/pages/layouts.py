"""The layouts that training sees: those of letter-size paper here, small ones in `slips`."""

from __future__ import annotations

from . import blocks as b
from . import wording
from .draft import Draft
from .making import Layout, make_layout
from .slips import card, parking, receipt_meal, receipt_shop

_PARTY = ("name", "street", "city", "phone")
_PERSON = ("name", "birth", "street", "city", "phone", "email")


def invoice_classic(d: Draft) -> None:
    """Sender and title on top, details at the right, the customer at the left, a table, totals, thanks."""
    x, jig = 60 + d.rng.uniform(-15, 25), d.rng.uniform(-10, 20)
    swap = d.rng.random() < 0.5
    b.heading(d, 740 if not swap else x, 90 + jig, 1.0 if not swap else 0.0)
    b.address(d, ["company", "email"], x if not swap else 740, 90 + jig, 0.0 if not swap else 1.0, big=True)
    y = 200 + jig
    right = b.pairs(d, ["number", "date", "due"], 440, y, 300, d.rng.choice(("left", "columns", "spread", "columns")))
    y = b.section(d, "parties", _PARTY, x, y)
    y = max(right, b.address(d, ["name", "street", "city", "phone"], x, y)) + 40
    y = b.table(d, x, y, 690 - x + 50, ruled=d.rng.random() < 0.7) + 10
    y = b.totals(d, 440, y, 295)
    y = b.leftovers(d, x, y + 20, 600)
    b.note(d, wording.THANKS, 400, y + 40, 0.5)


def invoice_grid(d: Draft) -> None:
    """A centerd title, a grid of cells, a table, the total in a box, payment details below."""
    x = 50 + d.rng.uniform(0, 20)
    y = b.heading(d, 400, 80 + d.rng.uniform(0, 30), 0.5)
    if d.rng.random() < 0.7:
        y = b.address(d, ["company", "city"], 400, y, 0.5)
    columns, boxed = d.rng.choice((2, 3, 3)), d.rng.random() < 0.6
    y = b.grid(d, d.mixed("number", "date", "due", "reference", "name"), x, y + 25, 690, columns, boxed) + 15
    y = b.table(d, x, y, 690, ruled=d.rng.random() < 0.7) + 10
    top = y - d.size * 1.3
    y = b.totals(d, x + 330, y + 8, 345)
    if y > top + d.size * 2 and d.rng.random() < 0.5:
        d.box(x + 315, top - 4, x + 690, y - d.size * 0.5)
    y = b.section(d, "payment", ("account", "method"), x, y + 15)
    b.leftovers(d, x, y + 10, 690)
    b.note(d, wording.TERMS, x, 940)


def invoice_side(d: Draft) -> None:
    """All details stacked in a column at the left, the table and the totals beside it."""
    x, y = 40 + d.rng.uniform(0, 15), 90 + d.rng.uniform(0, 30)
    b.heading(d, 330, y)
    y = b.address(d, ["company"], x, y, big=True, room=260) if d.rng.random() < 0.3 else y
    side = d.has("company", "number", "date", "due", "account", "email", "reference", "phone")
    b.pairs(d, side, x, y + 70, 230, "above")
    y = b.section(d, "parties", _PARTY, 330, y + 80)
    y = b.address(d, ["name", "street", "city"], 330, y) + 25
    y = b.table(d, 330, y, 430, ruled=True) + 10
    y = b.totals(d, 400, y, 355)
    y = b.leftovers(d, 330, y + 20, 430)
    b.note(d, wording.TERMS, 330, y + 40)


def application(d: Draft) -> None:
    """A form: values on ruled lines, in one column, the form's number and date in a corner."""
    x = 60 + d.rng.uniform(-10, 30)
    y = b.heading(d, x, 90 + d.rng.uniform(0, 25))
    if d.rng.random() < 0.6:
        y = b.line_of(d, d.mixed("number", "date"), x, y, 90)
    y = b.section(d, "person", _PERSON, x, y + 30)
    person = d.has(*_PERSON)
    style = d.rng.randrange(3)
    if style == 0:
        y = b.form_lines(d, person, x, y + 10, 660)
    elif style == 1:
        y = b.grid(d, person, x, y + 20, 670, 2, d.rng.random() < 0.5)
    else:
        y = b.pairs(d, person, x, y + 10, 660, d.rng.choice(("columns", "left")))
    y = b.section(d, "details", tuple(d.values), x, y + 20)
    rest = d.mixed(*d.values)
    y = b.form_lines(d, rest, x, y, 660) if style == 0 else b.pairs(d, rest, x, y + 5, 500, "columns")
    b.note(d, wording.TERMS, x, y + 50)


def order(d: Draft) -> None:
    """Two columns of details side by side, the table below, then weight and payment."""
    x = 55 + d.rng.uniform(-5, 20)
    y = b.heading(d, x, 85 + d.rng.uniform(0, 25), size=1.5)
    keys = d.mixed("number", "date", "due", "name", "company", "reference", "department")
    half = (len(keys) + 1) // 2
    style = d.rng.choice(("left", "columns", "above"))
    left = b.pairs(d, keys[:half], x, y + 20, 320, style)
    y = max(left, b.pairs(d, keys[half:], 430, y + 20, 320, style)) + 30
    y = b.table(d, x, y, 690, ruled=d.rng.random() < 0.8) + 10
    y = b.totals(d, 440, y, 305 - (x - 55))
    y = b.line_of(d, list(d.values), x, y + 20, 60)
    b.note(d, wording.TERMS, x, y + 50)


def delivery(d: Draft) -> None:
    """The receiver at the left, the goods' data in a box at the right, a table without prices' totals."""
    x = 60 + d.rng.uniform(-10, 20)
    y = b.heading(d, x, 90 + d.rng.uniform(0, 20)) + 20
    left = b.address(d, ["name", "street", "city", "phone"], x, b.section(d, "parties", _PARTY, x, y))
    keys = d.mixed("number", "date", "weight", "reference")
    right = b.pairs(d, keys, 440, y, 300, d.rng.choice(("columns", "spread", "left")))
    if keys and d.rng.random() < 0.6:
        d.box(425, y - d.size * 1.4, 755, right - d.size * 0.8)
    y = b.table(d, x, max(left, right) + 40, 680) + 20
    y = b.pairs(d, list(d.values), x, y, 400, d.rng.choice(("left", "columns")))
    b.note(d, wording.TERMS, x, y + 40)
    b.note(d, wording.THANKS, x, y + 40 + d.pitch)


def price_table(d: Draft) -> None:
    """A long table under a title, the little else at the bottom or between."""
    x = 70 + d.rng.uniform(-20, 20)
    y = b.heading(d, 400, 100 + d.rng.uniform(0, 30), 0.5)
    top = d.rng.random() < 0.5
    if top:
        y = b.line_of(d, d.mixed("number", "date", "name"), x, y + 10, 70)
    y = b.table(d, x, y + 40, 660, ruled=d.rng.random() < 0.7) + 10
    y = b.totals(d, 420, y, 300)
    y = b.pairs(d, d.mixed(*d.values), x, y + 30, 660, d.rng.choice(("left", "columns", "above")))
    b.note(d, wording.TERMS, 400, y + 40, 0.5)


def statement(d: Draft) -> None:
    """Every field on a line of its own, values at the right end or in a column, some lines ruled."""
    x = 80 + d.rng.uniform(-20, 30)
    if d.rng.random() < 0.5:
        y = b.address(d, ["company"], x, 90 + d.rng.uniform(0, 20), big=True)
        y = b.heading(d, x, y + 30)
    else:
        y = b.heading(d, 400, 100 + d.rng.uniform(0, 20), 0.5)
    y = b.address(d, ["name", "street", "city"], x, y + 20) + 20 if d.rng.random() < 0.5 else y + 20
    keys = d.mixed(*d.values)
    style = d.rng.choice(("spread", "columns", "spread"))
    ruled = d.rng.random() < 0.5
    for key in keys:
        if ruled:
            d.line(x, x + 600, y + d.size * 0.5)
        y = b.pairs(d, [key], x, y, 600, style if style == "spread" or len(keys) == 1 else "left") + 6
    b.note(d, wording.TERMS, x, y + 40)


def letter(d: Draft) -> None:
    """Sender, date, greeting, sentences that say the values, closing."""
    x = 80 + d.rng.uniform(-20, 20)
    y = b.address(d, ["company", "street", "city"], x, 90 + d.rng.uniform(0, 20), big=d.rng.random() < 0.5)
    if d.rng.random() < 0.5 and d.has("date"):
        b.pairs(d, ["date"], 520, 90, 200, "left")
    y = b.heading(d, x, y + 40, size=1.3) if d.rng.random() < 0.4 else y + 40
    y = b.note(d, wording.GREETINGS, x, y + 20) + 15
    y = b.sentences(d, x, y, 640) + 15
    b.note(d, wording.CLOSINGS, x, y + 10)


def payslip(d: Draft) -> None:
    """The person in a grid on top, the amounts on spread lines below, the account last."""
    x = 50 + d.rng.uniform(0, 20)
    y = b.address(d, ["company"], x, 80, big=True) if d.rng.random() < 0.6 else 80
    y = b.heading(d, x, y + 20) + 10
    person = d.mixed("name", "title", "department", "number", "date", "birth")
    y = b.grid(d, person, x, y + 20, 690, 2, d.rng.random() < 0.6) + 20
    y = b.section(d, "payment", ("subtotal", "tax", "total"), x, y)
    y = b.totals(d, x, y, d.rng.choice((420, 560, 680)))
    y = b.pairs(d, list(d.values), x, y + 20, 600, d.rng.choice(("left", "columns")))
    b.note(d, wording.TERMS, x, y + 40)


KNOWN: dict[str, Layout] = {
    "invoice_classic": make_layout(
        invoice_classic,
        "Invoice Invoice Quote",
        "number date total",
        "due company name street city tax subtotal email",
        more=4,
        rows=(2, 3),
    ),
    "invoice_grid": make_layout(
        invoice_grid,
        "Invoice Order",
        "number date total",
        "due company name reference method account city tax",
        more=4,
        rows=(1, 3),
    ),
    "invoice_side": make_layout(
        invoice_side,
        "Invoice Quote",
        "number date total",
        "due company account email name phone reference tax",
        more=4,
        rows=(1, 3),
    ),
    "receipt_shop": make_layout(
        receipt_shop,
        "Receipt",
        "date total company",
        "number time street city phone method clerk tax subtotal account",
        more=4,
        rows=(2, 4),
        paper=(420, 900),
        size=20,
    ),
    "receipt_meal": make_layout(
        receipt_meal,
        "Receipt Order",
        "place total date",
        "number time clerk method tax subtotal company city",
        more=4,
        rows=(2, 4),
        food=True,
        places="Table Room",
        paper=(420, 900),
        size=20,
    ),
    "application": make_layout(
        application,
        "Form",
        "number birth name",
        "date street city phone email department title place weight",
        more=5,
        places="Room Desk",
    ),
    "order": make_layout(
        order,
        "Order",
        "number date total",
        "due name company reference department weight method phone",
        more=4,
        rows=(2, 3),
    ),
    "delivery": make_layout(
        delivery,
        "Delivery Order",
        "number date weight",
        "name street city phone reference clerk place time",
        more=5,
        rows=(1, 3),
        places="Bay Gate",
    ),
    "price_table": make_layout(
        price_table, "Quote", "number date", "total due name email company reference", more=2, rows=(3, 5)
    ),
    "statement": make_layout(
        statement,
        "Statement",
        "number account total",
        "date due name street city company reference tax method phone",
        more=6,
    ),
    "letter": make_layout(
        letter,
        "Letter Order Invoice",
        "number date",
        "due total name company street city reference account email phone",
        more=4,
        places="Room Desk",
    ),
    "parking": make_layout(
        parking,
        "Ticket Pass",
        "number date time",
        "place total method street city company due",
        more=4,
        places="Bay Gate Seat",
        paper=(800, 400),
    ),
    "payslip": make_layout(
        payslip,
        "Statement",
        "date total name",
        "number title department birth tax subtotal account company method",
        more=6,
    ),
    "card": make_layout(
        card,
        "Pass",
        "name company phone",
        "title department street city email place",
        more=4,
        places="Room Desk",
        paper=(800, 450),
        size=24,
    ),
}
