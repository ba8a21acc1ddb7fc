"""What stands on a form: labelled fields, a table, an address, running text; made up at random.

Values are random strings as often as they are words, so that a model has to copy them and cannot know them. Each kind of
document has wordings of its own for the same field, currencies and date formats come in all the forms that people use.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass, field

KINDS = ("invoice", "receipt", "form", "letter", "timetable", "menu", "card", "label")

LABELS: dict[str, tuple[str, ...]] = {
    "number": ("Invoice No.", "Invoice number", "Invoice #", "Document no.", "No.", "Bill number"),
    "order": ("Order No.", "Order number", "Purchase order", "PO number", "Your order"),
    "customer": ("Customer No.", "Customer ID", "Account number", "Client no.", "Customer"),
    "date": ("Date", "Invoice date", "Issued", "Date of issue", "Issued on"),
    "due": ("Due date", "Payable by", "Due", "Please pay by", "Payment due"),
    "total": ("Total", "Total due", "Amount due", "Grand total", "Balance due", "To pay"),
    "subtotal": ("Subtotal", "Net amount", "Net", "Sum"),
    "tax": ("VAT", "Tax", "Sales tax", "VAT 19 %", "GST"),
    "iban": ("IBAN", "Account", "Bank account"),
    "cashier": ("Cashier", "Served by", "Operator", "Clerk"),
    "table": ("Table", "Table no.", "Seat"),
    "terminal": ("Terminal", "Till", "Register", "POS"),
    "time": ("Time", "Printed at", "Hour"),
    "name": ("Name", "Full name", "Applicant", "Name of applicant"),
    "birth": ("Date of birth", "Born", "Birth date"),
    "phone": ("Phone", "Tel.", "Telephone", "Mobile", "Call"),
    "email": ("E-mail", "Email", "Mail"),
    "web": ("Web", "Website", "Internet", "Online"),
    "address": ("Address", "Street", "Home address"),
    "city": ("City", "Town", "Place"),
    "reference": ("Reference", "Ref.", "Our ref.", "File no.", "Your reference"),
    "subject": ("Subject", "Re", "Concerning"),
    "platform": ("Platform", "Track", "Gate", "Bay"),
    "line": ("Line", "Route", "Service"),
    "weight": ("Weight", "Net weight", "Gross weight"),
    "batch": ("Batch", "Lot", "Charge", "Batch no."),
    "best": ("Best before", "Use by", "Expires", "EXP"),
    "serial": ("Serial no.", "S/N", "Serial number"),
    "origin": ("Origin", "Made in", "Country of origin"),
    "department": ("Department", "Dept.", "Section", "Unit"),
}
#: How a field is asked for, whatever its label says.
ASKED = {
    **{"number": "invoice number", "order": "order number", "customer": "customer number", "due": "due date"},
    **{"subtotal": "net amount", "birth": "date of birth", "phone": "phone number", "email": "e-mail address"},
    **{"web": "web address", "best": "best-before date", "serial": "serial number", "batch": "batch number"},
    **{"iban": "account number", "line": "line", "table": "table number"},
}
FIELDS: dict[str, tuple[str, ...]] = {
    "invoice": (
        "number",
        "order",
        "customer",
        "date",
        "due",
        "reference",
        "iban",
        "subtotal",
        "tax",
        "total",
        "phone",
        "email",
    ),
    "receipt": ("number", "date", "time", "cashier", "table", "terminal", "subtotal", "tax", "total", "phone"),
    "form": ("name", "birth", "address", "city", "phone", "email", "department", "reference", "date", "customer"),
    "letter": ("date", "reference", "subject", "customer", "phone", "email", "department"),
    "timetable": ("line", "platform", "date", "phone", "web"),
    "menu": ("date", "phone", "web", "address"),
    "card": ("phone", "email", "web", "address", "department"),
    "label": ("weight", "batch", "best", "serial", "origin", "number", "order"),
}
HEADS: dict[str, tuple[tuple[str, ...], ...]] = {
    "invoice": (
        ("Item", "Qty", "Price", "Amount"),
        ("Description", "Quantity", "Unit price", "Total"),
        ("Pos", "Article", "Price"),
    ),
    "receipt": (("Item", "Price"), ("Article", "Qty", "Price")),
    "form": (("Period", "Employer", "Role"), ("Year", "School", "Degree")),
    "timetable": (
        ("Stop", "Mon-Fri", "Sat", "Sun"),
        ("Time", "Destination", "Platform"),
        ("Train", "Departs", "Arrives"),
    ),
    "menu": (("Dish", "Price"), ("Dish", "Small", "Large")),
}
NOUNS = (
    "lamp chair cable printer notebook battery kettle bottle shelf carpet bracket filter hose valve sensor panel drill paint "
    "gloves helmet tea coffee bread cheese soup salad rice pasta juice cake apple tomato paper folder stapler marker screen "
    "keyboard mouse adapter charger window door handle hinge mirror curtain pillow blanket towel soap brush bucket"
).split()
ADJECTIVES = (
    "red small large spare double soft steel wooden fresh green quick heavy light cold hot long short old new blue"
).split()
FIRST = (
    "Ada Ben Clara Dmitri Elena Farid Greta Hugo Ines Jonas "
    "Kira Liam Mara Nils Olga Pavel Quinn Rosa Samir Tara Uwe Vera"
).split()
LAST = (
    "Abbott Berg Castillo Dubois Engel Fischer Grant Haddad "
    "Ivanov Jensen Kowalski Lindt Moreau Novak Okafor Petrov Rossi"
).split()
PLACES = (
    "Ashford Brookdale Carling Dunmore Eastwick Fernhill Glenrow Harwick Inverby Kelton Linden Marlow Norbury Oakley"
).split()
CURRENCIES = ("€{}", "{} €", "${}", "£{}", "{} EUR", "USD {}", "CHF {}", "{} kr")
SENTENCES = (
    "Thank you for your letter, which reached us last week.",
    "We are glad to confirm what was agreed on the telephone.",
    "Please let us know at any time if there is something amiss.",
    "The goods stay our property until they have been paid in full.",
    "Returns are accepted within thirty days, with this paper.",
    "Our offices are closed on public holidays and between the years.",
    "All prices include delivery unless it says otherwise above.",
    "With it you find the documents that you asked for.",
    "Keep this slip for your records; a copy is not sent.",
    "We look forward to hearing from you and remain at your service.",
)


@dataclass(frozen=True)
class Content:
    """What stands on one form.

    Attributes:
        kind: one of `KINDS`.
        title: largest type.
        fields: by key, `(label as printed, value)`, in the order of their printing.
        heads, rows: a table; empty where there is none.
        sender: name and address, a line each.
        text: running text, a paragraph each.
    """

    kind: str
    title: str
    fields: dict[str, tuple[str, str]]
    heads: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    sender: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


def make_content(kind: str, rng: random.Random) -> Content:
    """Random content of a kind."""
    dates, money = _date_form(rng), rng.choice(CURRENCIES)
    keys = [key for key in FIELDS[kind] if rng.random() < 0.75] or list(FIELDS[kind][:2])
    fields = {key: (rng.choice(LABELS[key]), _value(key, rng, dates, money)) for key in keys}
    if len({label for label, _ in fields.values()}) < len(fields):  # two fields under one label: nobody could tell
        return make_content(kind, rng)
    heads, rows = _table(kind, rng, money)
    company = _company(rng)
    title = rng.choice(
        {
            "invoice": ("INVOICE", "Invoice", f"Invoice from {company}", "Tax invoice", "Bill"),
            "receipt": (company, "RECEIPT", "Sales slip"),
            "form": ("Application form", "Registration", "Personal data sheet", "Request for access"),
            "letter": (company, f"{company} - {rng.choice(('Legal', 'Service', 'Sales'))}"),
            "timetable": (f"Timetable {rng.choice(PLACES)}", "Departures", f"Line {rng.randint(1, 99)}"),
            "menu": (f"{rng.choice(ADJECTIVES).title()} {rng.choice(NOUNS).title()}", "Menu", "Lunch menu"),
            "card": (_person(rng), company),
            "label": (" ".join((rng.choice(ADJECTIVES), rng.choice(NOUNS))).upper(), f"{company} parcel"),
        }[kind]
    )
    paragraphs = {"letter": rng.randint(2, 5), "form": rng.randint(0, 2), "invoice": rng.randint(0, 2)}.get(
        kind, rng.randint(0, 1)
    )
    text = [" ".join(rng.sample(SENTENCES, rng.randint(1, 4))) for _ in range(paragraphs)]
    sender = [company, _person(rng), _street(rng), f"{rng.randint(10000, 99999)} {rng.choice(PLACES)}"][
        : rng.randint(1, 4)
    ]
    return Content(kind, title, fields, heads, rows, sender, text)


def _table(kind: str, rng: random.Random, money: str) -> tuple[list[str], list[list[str]]]:
    if kind not in HEADS or rng.random() < 0.15:
        return [], []
    heads = list(rng.choice(HEADS[kind]))
    names: dict[str, None] = {}
    while len(names) < rng.randint(2, 9):
        names[_cell(heads[0], rng, money)] = None
    return heads, [[name, *(_cell(head, rng, money) for head in heads[1:])] for name in names]


def _cell(head: str, rng: random.Random, money: str) -> str:
    if head in ("Price", "Amount", "Unit price", "Total", "Small", "Large"):
        return _money(rng, money)
    if head in ("Qty", "Quantity", "Platform"):
        return str(rng.randint(1, 40))
    if head in ("Mon-Fri", "Sat", "Sun", "Time", "Departs", "Arrives"):
        return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    if head in ("Stop", "Destination", "School"):
        return f"{rng.choice(PLACES)} {rng.choice(('', 'Central', 'North', 'South', 'Market', 'Park'))}".strip()
    if head in ("Year", "Period"):
        return str(rng.randint(1960, 2030))
    if head == "Pos":
        return str(rng.randint(1, 99) * 10)
    if head == "Train":
        return f"{rng.choice(('IC', 'RE', 'S', 'R'))} {rng.randint(1, 999)}"
    if head in ("Employer", "Degree", "Role"):
        return {"Employer": _company, "Degree": _code, "Role": _item}[head](rng)
    return _item(rng)


def _value(key: str, rng: random.Random, dates: str, money: str) -> str:
    if key in ("date", "due", "birth", "best"):
        return _date(rng, dates)
    if key in ("total", "subtotal", "tax"):
        return _money(rng, money)
    if key == "time":
        return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"
    if key in ("name", "cashier"):
        return _person(rng) if rng.random() < 0.8 else _code(rng)
    if key == "phone":
        return rng.choice(
            ("+{}{} {}{}{} {}{}{}{}", "({}{}{}) {}{}{}-{}{}{}", "0{}{}{}/{}{}{}{}{}{}", "{}{}{}-{}{}{}-{}{}{}")
        ).format(*(rng.randint(0, 9) for _ in range(10)))
    if key == "email":
        name, end = (
            rng.choice((".", "_", "")).join((_word(rng), _word(rng))),
            rng.choice(("com", "org", "net", "de", "co.uk")),
        )
        return f"{name}@{_word(rng)}.{end}"
    if key == "web":
        name = rng.choice(("-", "")).join((_word(rng), _word(rng)))
        return f"{rng.choice(('www.', 'https://', ''))}{name}.{rng.choice(('com', 'org', 'eu'))}"
    if key == "address":
        return _street(rng)
    if key in ("city", "origin"):
        return rng.choice(PLACES) if rng.random() < 0.7 else _word(rng).title()
    if key == "subject":
        return f"{rng.choice(('Your order of', 'Delivery of', 'Complaint about', 'Offer for'))} {_item(rng)}"
    if key == "weight":
        return f"{rng.randint(1, 9999) / rng.choice((1, 10, 100)):g} {rng.choice(('kg', 'g', 'lb', 't'))}"
    if key in ("table", "platform", "terminal", "line"):
        return f"{rng.choice(('', string.ascii_uppercase[rng.randrange(26)]))}{rng.randint(1, 99)}"
    if key == "department":
        return rng.choice(("Sales", "Legal", "Service", "Research", "Stores", "Accounts"))
    return _code(rng)


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


def _code(rng: random.Random) -> str:
    """A random string: letters, digits and what stands between them."""
    parts = []
    for _ in range(rng.randint(1, 3)):
        signs = rng.choice((string.digits, string.ascii_uppercase, string.digits + string.ascii_uppercase))
        parts.append("".join(rng.choices(signs, k=rng.randint(2, 6))))
    return rng.choice(("-", "/", "", ".")).join(parts)


def _item(rng: random.Random) -> str:
    return (
        f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}".capitalize()
        if rng.random() < 0.8
        else f"{_word(rng)} {rng.randint(2, 900)}"
    )


def _person(rng: random.Random) -> str:
    last = rng.choice(LAST) if rng.random() < 0.6 else _word(rng).title()
    return f"{rng.choice(FIRST)} {rng.choice(('', 'M. ', 'van '))}{last}"


def _company(rng: random.Random) -> str:
    name = _word(rng).title() if rng.random() < 0.6 else rng.choice(LAST)
    return f"{name} {rng.choice(('Ltd.', 'GmbH', 'Inc.', '& Sons', 'Trading', 'AG', 'Works', 'Store'))}"


def _street(rng: random.Random) -> str:
    return f"{rng.choice(PLACES)} {rng.choice(('Street', 'Road', 'Lane', 'Avenue'))} {rng.randint(1, 199)}"


def _money(rng: random.Random, form: str) -> str:
    amount = rng.choice((rng.uniform(0.5, 99), rng.uniform(100, 9999)))
    return form.format(rng.choice((f"{amount:,.2f}", f"{amount:.2f}")))


def _date_form(rng: random.Random) -> str:
    return rng.choice(
        (
            "{d:02}.{m:02}.{y}",
            "{y}-{m:02}-{d:02}",
            "{m:02}/{d:02}/{y}",
            "{d} {name} {y}",
            "{name} {d}, {y}",
            "{d:02}/{m:02}/{s:02}",
        )
    )


def _date(rng: random.Random, form: str) -> str:
    month, year = rng.randint(1, 12), rng.randint(1950, 2035)
    names = "January February March April May June July August September October November December".split()
    return form.format(d=rng.randint(1, 28), m=month, y=year, s=year % 100, name=names[month - 1])
