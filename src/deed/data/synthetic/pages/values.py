"""Random values of the fields a business document prints: numbers, dates, names, money.

Half of the names are made up from syllables and every number is free, so the values of a held-out page are practically
never seen in training. All characters are printable ASCII, "€" or "£".
"""

from __future__ import annotations

import random
from collections.abc import Callable

from deed.errors import DataError

from . import names

# Canonical order: the short keys first; JSON answers keep it.
KEYS = (
    *("number", "date", "due", "total", "time", "method", "place", "reference", "account", "birth", "weight"),
    *("tax", "subtotal", "clerk", "phone", "name", "title", "department", "city", "company", "street", "email"),
)
LONG = frozenset(("clerk", "phone", "name", "title", "department", "city", "company", "street", "email"))

Day = tuple[int, int, int]  # year, month, day
Style = tuple[int, int, bool]  # currency, where its sign goes, whether thousands have commas
Row = tuple[str, str, str]  # item, quantity, price


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(10 ** (count - 1), 10**count))


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=count))


def _number(rng: random.Random) -> str:
    form = rng.randrange(7)
    if form == 0:
        return rng.choice(("INV", "ORD", "REC", "DOC", "QT", "TKT", _letters(rng, 3))) + "-" + _digits(rng, 5)
    if form == 1:
        return rng.choice(("20", "21", "22", "23", "24", "25")) + _digits(rng, 2) + "-" + _digits(rng, 4)
    if form == 2:
        return _letters(rng, 1) + "-" + _digits(rng, rng.randint(4, 6))
    if form == 3:
        return _letters(rng, rng.randint(1, 2)) + _digits(rng, rng.randint(4, 6))
    return _digits(rng, rng.randint(4, 8))


def _reference(rng: random.Random) -> str:
    form = rng.randrange(4)
    if form == 0:
        return _letters(rng, 2) + "/" + _digits(rng, rng.randint(3, 5))
    if form == 1:
        return rng.choice(("RF", "PO", "CR", _letters(rng, 2))) + "-" + _digits(rng, rng.randint(4, 6))
    if form == 2:
        return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=rng.randint(5, 7)))
    return _digits(rng, 3) + "." + _digits(rng, 3)


def _account(rng: random.Random) -> str:
    form = rng.randrange(4)
    if form == 0:
        return _letters(rng, 2) + _digits(rng, 2) + " " + _digits(rng, 4) + " " + _digits(rng, 4)
    if form == 1:
        return "-".join((_digits(rng, 2), _digits(rng, 4), _digits(rng, 4)))
    if form == 2:
        return _digits(rng, 4) + " " + _digits(rng, 4) + " " + _digits(rng, 4)
    return _digits(rng, rng.randint(8, 10))


def _name(rng: random.Random) -> str:
    first = rng.choice(names.FIRST) if rng.random() < 0.7 else names.made_up(rng, 1)
    last = rng.choice(names.LAST) if rng.random() < 0.4 else names.made_up(rng, rng.choice((1, 1, 2)))
    middle = _letters(rng, 1) + ". " if rng.random() < 0.12 else ""
    return f"{first} {middle}{last}"


def _company(rng: random.Random) -> str:
    first = rng.choice(names.FIRMS) if rng.random() < 0.4 else names.made_up(rng, rng.choice((1, 2)))
    if rng.random() < 0.15:
        return f"{first} & {rng.choice(names.LAST)}"
    return f"{first} {rng.choice(names.FIRM_ENDS)}"


def _street(rng: random.Random) -> str:
    road = rng.choice(names.STREETS) if rng.random() < 0.5 else names.made_up(rng, rng.choice((1, 1, 2)))
    return f"{rng.randint(1, 299)} {road} {rng.choice(names.STREET_ENDS)}"


def _city(rng: random.Random) -> str:
    if rng.random() < 0.5:
        town = rng.choice(names.CITIES)
    else:
        town = names.made_up(rng, 1) + rng.choice(names.CITY_ENDS)
    if rng.random() < 0.5:
        return town
    return f"{town} {_digits(rng, 5)}" if rng.random() < 0.6 else f"{_digits(rng, rng.choice((4, 5)))} {town}"


def _phone(rng: random.Random) -> str:
    form = rng.randrange(4)
    if form == 0:
        return f"({_digits(rng, 3)}) {_digits(rng, 3)}-{_digits(rng, 4)}"
    if form == 1:
        return f"+{rng.randint(30, 99)} {_digits(rng, 3)} {_digits(rng, 4)}"
    if form == 2:
        return f"{_digits(rng, 3)}-{_digits(rng, 4)}"
    return f"0{_digits(rng, 3)} {_digits(rng, 6)}"


def _email(rng: random.Random) -> str:
    user = rng.choice(names.FIRST) if rng.random() < 0.5 else names.made_up(rng, 1)
    if rng.random() < 0.3:
        user = user[0] + "." + rng.choice(names.LAST)
    host = rng.choice(names.FIRMS) if rng.random() < 0.4 else names.made_up(rng, 1)
    return f"{user}@{host}.{rng.choice(('com', 'org', 'net', 'co', 'de', 'eu'))}".lower()


def _method(rng: random.Random) -> str:
    method = rng.choice(names.METHODS)
    return f"{method} {_digits(rng, 4)}" if " " not in method and method != "Cash" and rng.random() < 0.4 else method


def _time(rng: random.Random) -> str:
    hour, minute = rng.randrange(24), rng.randrange(60)
    if rng.random() < 0.3:
        return f"{hour % 12 or 12}:{minute:02} {'AM' if hour < 12 else 'PM'}"
    return f"{hour:02}:{minute:02}"


def _place(rng: random.Random) -> str:
    form = rng.randrange(3)
    if form == 0:
        return str(rng.randint(2, 420))
    return _letters(rng, 1) + str(rng.randint(2, 60)) if form == 1 else str(rng.randint(2, 60)) + _letters(rng, 1)


def _title(rng: random.Random) -> str:
    first = rng.choice(names.FIELDS if rng.random() < 0.7 else names.RANKS)
    return f"{first} {rng.choice(names.JOBS)}"


def _department(rng: random.Random) -> str:
    name = rng.choice(names.DEPARTMENTS)
    return f"{name} {rng.choice('ABCDEF123456')}" if rng.random() < 0.4 else name


def _weight(rng: random.Random) -> str:
    form = rng.randrange(3)
    if form == 0:
        return f"{rng.randint(2, 95)} kg"
    return f"{rng.randint(1, 60)}.{rng.randint(1, 9)} kg" if form == 1 else f"{rng.randint(5, 99) * 10} g"


def _day(rng: random.Random) -> Day:
    return rng.randint(2018, 2026), rng.randint(1, 12), rng.randint(1, 28)


def _birth(rng: random.Random) -> Day:
    return rng.randint(1940, 2006), rng.randint(1, 12), rng.randint(1, 28)


def _later(day: Day, days: int) -> Day:
    """A day on a calendar of 28-day months, which is as good as any here."""
    year, month, number = day
    months, number = divmod(number - 1 + days, 28)
    years, month = divmod(month - 1 + months, 12)
    return year + years, month + 1, number + 1


def print_date(day: Day, form: int) -> str:
    """One of six printed forms, at most 12 characters."""
    year, month, number = day
    if form == 0:
        return f"{number} {names.MONTHS[month - 1]} {year}"
    if form == 1:
        return f"{number:02}/{month:02}/{year}"
    if form == 2:
        return f"{year}-{month:02}-{number:02}"
    if form == 3:
        return f"{number:02}.{month:02}.{year}"
    if form == 4:
        return f"{names.MONTHS[month - 1]} {number}, {year}"
    return f"{number:02}-{month:02}-{year % 100:02}"


def money_style(rng: random.Random) -> Style:
    """How a page prints amounts: as `print_money` takes it."""
    return rng.randrange(3), rng.choice((0, 0, 0, 1, 1)), rng.random() < 0.8


def print_money(cents: int, style: Style) -> str:
    """`$1,228.80`, or the bare amount."""
    currency, where, commas = style
    amount = f"{cents // 100:,}.{cents % 100:02}" if commas else f"{cents // 100}.{cents % 100:02}"
    return amount if where else "$€£"[currency] + amount


_FREE: dict[str, Callable[[random.Random], str]] = {
    "number": _number,
    "time": _time,
    "method": _method,
    "place": _place,
    "reference": _reference,
    "account": _account,
    "weight": _weight,
    "clerk": _name,
    "phone": _phone,
    "name": _name,
    "title": _title,
    "department": _department,
    "city": _city,
    "company": _company,
    "street": _street,
    "email": _email,
}


def value(key: str, rng: random.Random) -> str:
    """A random value of one key of `KEYS`.

    Raises:
        DataError: an unknown key.
    """
    if key not in KEYS:
        raise DataError(f"key must be one of {', '.join(KEYS)}, got {key!r}")
    return draw([key], 0, False, rng)[0][key]


def draw(keys: list[str], n_rows: int, food: bool, rng: random.Random) -> tuple[dict[str, str], list[Row]]:
    """Values of one page: dates and money share a form, a due date follows the date, totals add up, no two fields are equal.

    Args:
        keys: of `KEYS`, each once.
        n_rows: table lines, with items all different.
        food: whether the items are dishes.
    """
    taken: set[str] = set()
    drawn: dict[str, str] = {}
    date_form, style = rng.randrange(6), money_style(rng)
    day = _day(rng)
    rows, net = _rows(n_rows, food, style, rng)
    net = net or rng.choice((rng.randint(300, 9999), rng.randint(1000, 99999), rng.randint(10000, 999999)))
    tax = max(1, net * rng.choice((5, 7, 8, 10, 19, 20)) // 100) if {"tax", "subtotal"} & set(keys) else 0
    taken.update(price for _, _, price in rows)
    for key in keys:
        if key in _FREE:
            text = _FREE[key](rng)
            while text in taken:
                text = _FREE[key](rng)
        elif key == "date":
            text = print_date(day, date_form)
        elif key == "due":
            text = print_date(_later(day, rng.randint(7, 60)), date_form)
        elif key == "birth":
            text = print_date(_birth(rng), date_form)
        else:
            text = print_money({"total": net + tax, "tax": tax, "subtotal": net}[key], style)
        taken.add(text)
        drawn[key] = text
    return drawn, rows


def _rows(count: int, food: bool, style: Style, rng: random.Random) -> tuple[list[Row], int]:
    """Table lines with their sum in cents."""
    items: set[str] = set()
    rows: list[Row] = []
    net = 0
    while len(rows) < count:
        item = rng.choice(names.DISHES) if food else f"{rng.choice(names.ADJECTIVES)} {rng.choice(names.THINGS)}"
        if item in items:
            continue
        items.add(item)
        cents = rng.choice((rng.randint(100, 999), rng.randint(100, 9999), rng.randint(1000, 99999)))
        if rng.random() < 0.2:
            cents = cents // 100 * 100
        net += cents
        rows.append((item, str(rng.choice((1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 20))), print_money(cents, style)))
    return rows, net
