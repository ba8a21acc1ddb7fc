"""From content to HTML: arrangements of the same parts, and everything that a style sheet varies.

A layout is an arrangement (where title, sender, fields, table and text stand) with a way of printing fields. Some are held
out (`UNSEEN_LAYOUTS`): no training sees them.
"""

from __future__ import annotations

import html
import random
from collections.abc import Sequence
from itertools import product

from .content import Content

ARRANGEMENTS = ("stacked", "fields-right", "sender-right", "centered", "boxed", "two-columns", "footer-fields")
FIELD_STYLES = ("colon", "grid", "above", "leaders", "right")
_HELD_OUT = {
    ("fields-right", "leaders"),
    ("boxed", "grid"),
    ("centered", "above"),
    ("two-columns", "colon"),
    ("footer-fields", "right"),
}
UNSEEN_LAYOUTS = tuple(sorted(_HELD_OUT))
LAYOUTS = tuple(pair for pair in product(ARRANGEMENTS, FIELD_STYLES) if pair not in _HELD_OUT)
PAPER = {
    **{
        "receipt": ("80mm 160mm", "80mm 200mm"),
        "card": ("85mm 55mm", "90mm 50mm"),
        "label": ("100mm 150mm", "100mm 70mm"),
    },
    **{"menu": ("A5", "A4", "148mm 210mm"), "timetable": ("A4", "A4 landscape")},
}


def to_html(content: Content, layout: tuple[str, str], families: Sequence[str], rng: random.Random) -> str:
    """A page of HTML.

    Args:
        content: what stands on it.
        layout: one of `LAYOUTS` or `UNSEEN_LAYOUTS`.
        families: font families to choose from.
        rng: for all else.
    """
    arrangement, fields = layout
    small = content.kind in ("receipt", "card", "label")
    size = rng.uniform(6.5, 9) if small else rng.uniform(8.5, 12.5)
    accent = rng.choice(("#000", "#222", "#1a4d7a", "#7a1a1a", "#2c5d2c", "#555"))
    parts = {
        "title": f"<h1>{_e(content.title)}</h1>",
        "sender": "<div class=sender>" + "<br>".join(_e(line) for line in content.sender) + "</div>",
        "fields": _fields(content, fields, rng),
        "table": _table(content, rng),
        "text": "".join(f"<p>{_e(paragraph)}</p>" for paragraph in content.text),
    }
    body = {
        "stacked": "{title}{sender}{fields}{table}{text}",
        "fields-right": "<div class=row><div>{title}{sender}</div><div>{fields}</div></div>{text}{table}",
        "sender-right": "<div class=row><div>{title}</div><div class=r>{sender}</div></div>{fields}{table}{text}",
        "centered": "<div class=c>{sender}{title}</div>{fields}{text}{table}",
        "boxed": "{title}<div class=box>{fields}</div>{table}<div class=box>{sender}</div>{text}",
        "two-columns": "{title}<div class=cols>{fields}{sender}</div>{table}{text}",
        "footer-fields": "{sender}{title}{text}{table}{fields}",
    }[arrangement].format(**parts)
    margin = "4mm" if small else f"{rng.randint(12, 28)}mm"
    style = f"""
      @page {{ size: {rng.choice(PAPER.get(content.kind, ("A4", "Letter", "A4")))}; margin: {margin} }}
      body {{ font: {size:.1f}pt/{rng.uniform(1.15, 1.6):.2f} '{rng.choice(list(families))}'; color: #111 }}
      h1 {{ font-size: {rng.uniform(1.4, 2.6):.2f}em; color: {accent}; margin: .3em 0 .5em; font-weight: {
        rng.choice((400, 700))
    } }}
      .row {{ display: flex; justify-content: space-between; gap: 2em }} .r {{ text-align: right }} .c {{ text-align: center }}
      .cols {{ columns: 2; column-gap: 3em }} .box {{ border: .6pt solid {accent}; padding: .6em; margin: .6em 0 }}
      .sender {{ margin: .5em 0 1em }} table {{ border-collapse: collapse; margin: .8em 0 }}
      table.items {{ width: {rng.choice(("100%", "100%", "80%"))} }} td, th {{ padding: {
        rng.uniform(0.1, 0.45):.2f}em .6em; text-align: left }}
      {
        rng.choice(
            (
                "table.items td, table.items th { border: .5pt solid #777 }",
                "table.items th { border-bottom: 1pt solid #333 }",
                "table.items tr:nth-child(even) td { background: #eee }",
                "",
            )
        )
    }
      {rng.choice(("", "table.items td:not(:first-child), table.items th:not(:first-child) { text-align: right }"))}
      {
        rng.choice(
            (
                "",
                ".label { text-transform: uppercase; font-size: .85em }",
                ".label { font-weight: 700 }",
                ".label { color: #666 }",
            )
        )
    }
      .field {{ margin: {rng.uniform(0, 0.5):.2f}em 0; break-inside: avoid }} .lead {{ display: flex }}
      .lead i {{ flex: 1; border-bottom: .6pt dotted #888; margin: 0 .4em .25em }}
    """
    return f"<html><head><meta charset=utf-8><style>{style}</style></head><body>{body}</body></html>"


def _fields(content: Content, how: str, rng: random.Random) -> str:
    pairs = [(_e(label), _e(value)) for label, value in content.fields.values()]
    colon = rng.choice((":", ":", ""))
    if how == "grid":
        return (
            "<table>" + "".join(f"<tr><td class=label>{a}{colon}</td><td>{b}</td></tr>" for a, b in pairs) + "</table>"
        )
    form = {
        "colon": "<div class=field><span class=label>{a}:</span> {b}</div>",
        "above": "<div class=field><div class=label>{a}</div><div>{b}</div></div>",
        "leaders": "<div class='field lead'><span class=label>{a}</span><i></i><span>{b}</span></div>",
        "right": "<div class='field row'><span class=label>{a}{c}</span><b>{b}</b></div>",
    }[how]
    return "<div>" + "".join(form.format(a=a, b=b, c=colon) for a, b in pairs) + "</div>"


def _table(content: Content, rng: random.Random) -> str:
    if not content.rows:
        return ""
    rows = ["".join(f"<th>{_e(head)}</th>" for head in content.heads)]
    rows += ["".join(f"<td>{_e(cell)}</td>" for cell in row) for row in content.rows]
    return "<table class=items>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _e(text: str) -> str:
    return html.escape(text)
