"""The blocks that layouts are put together from: headings, pairs of label and value, addresses, tables, totals, sentences.

A block prints those of its keys that are still to print, at most to the width given, and returns the y of the next base
line below it.
"""

from __future__ import annotations

from . import wording
from .draft import Draft


def heading(d: Draft, x: float, y: float, align: float = 0.0, size: float = 1.6, unseen: bool = False) -> float:
    """The page's title; whole pages only.

    Args:
        d: the page being drafted.
        x, y: where it begins, pixels; the result is the y below it.
        align: 0: `x` is its left end; 1: its right end; 0.5: its middle.
        size: times the page's text size.
        unseen: with the wording that training pages never have.
    """
    if d.whole:
        texts = (wording.UNSEEN_HEADINGS if unseen else wording.HEADINGS)[d.page.noun]
        d.put(d.rng.choice(texts), x, y, size, bold=d.rng.random() < 0.7, align=align)
    return y + d.pitch * (size + 0.2)


def section(d: Draft, which: str, keys: tuple[str, ...], x: float, y: float) -> float:
    """A small heading over the block of those keys; whole pages only, and not always there.

    Args:
        d: the page being drafted.
        which: a key of `wording.SECTIONS`.
        keys: of the values in the block.
        x, y: where it begins, pixels; the result is the y below it.
    """
    if d.whole and d.has(*keys) and d.rng.random() < 0.5:
        d.put(d.rng.choice(wording.SECTIONS[which]), x, y, bold=True)
        y += d.pitch * 1.1
    return y


def pairs(
    d: Draft, keys: list[str], x: float, y: float, width: float, style: str, size: float = 1.0, bold: bool = False
) -> float:
    """Labels and values below each other, all smaller where the widest would not fit.

    Args:
        style: "left" the value after the label, "columns" values in a column of their own, "spread" values at the right
            end, "above" the label over the value.
        size: relative to the page's.
        bold: all of it.
    """
    keys = d.has(*keys)
    above, columns = style == "above", style == "columns"
    bold_label, bold_value = bold or d.bold_labels, bold or d.bold_values
    labels = [d.label(key, d.colon and not above) for key in keys]
    label_wide = [d.width(label, size, bold_label) for label in labels]
    value_wide = [d.width(d.values[key], size, bold_value) for key in keys]
    gap = d.size * size * (d.rng.uniform(0.8, 2) if columns else 1.0 if style == "spread" else 0.45)
    column = max(label_wide, default=0) + gap
    for key, label, wide, value in zip(keys, labels, label_wide, value_wide, strict=True):
        need = max(wide, value) if above else column + max(value_wide) if columns else wide + gap + value
        fit = size * min(1.0, width / need)
        if above:
            d.put(label, x, y, fit * 0.85, bold_label)
            d.value(key, x, y + d.size * size * 1.25, fit, bold)
            y += d.size * size * 1.25 + d.pitch * 1.15
            continue
        if style == "left" and bold_label == bold_value:  # one text
            d.put(f"{label} {d.take(key, x, y)}", x, y, fit, bold_label)
        else:
            end = d.put(label, x, y, fit, bold_label)
            if style == "spread":
                d.value(key, x + width, y, fit, bold, align=1.0)
            else:
                d.value(key, x + column * fit / size if columns else end + gap, y, fit, bold)
        y += d.pitch * max(1.0, size)
    return y


def grid(d: Draft, keys: list[str], x: float, y: float, width: float, columns: int, boxed: bool) -> float:
    """Cells side by side, each a label over a value.

    Args:
        d: the page being drafted.
        keys: of the page's values; those that it does not have are left out.
        x, y: where it begins, pixels; the result is the y below it.
        width: of the block, pixels.
        columns: cells side by side.
        boxed: whether lines are drawn around the cells.
    """
    keys = d.has(*keys)
    cell, tall = width / columns, d.size * 3.4
    for i, key in enumerate(keys):
        left, top = x + i % columns * cell, y + i // columns * tall
        if boxed:
            d.box(left, top - d.size * 1.2, left + cell, top - d.size * 1.2 + tall)
        d.put(d.label(key), left + 8, top, 0.85, bold=d.bold_labels, room=cell - 20)
        d.value(key, left + 8, top + d.size * 1.3, room=cell - 20)
    return y + -(-len(keys) // columns) * tall + d.size * 0.4


def address(
    d: Draft, keys: list[str], x: float, y: float, align: float = 0.0, big: bool = False, room: float = 380
) -> float:
    """Values alone, without labels, one below the other, the first larger if `big`.

    Args:
        d: the page being drafted.
        keys: of the page's values; those that it does not have are left out.
        x, y: where it begins, pixels; the result is the y below it.
        align: 0: `x` is its left end; 1: its right end; 0.5: its middle.
        big: whether the first is larger.
        room: the most that a value may take, pixels.
    """
    for i, key in enumerate(d.has(*keys)):
        size = 1.3 if big and i == 0 else 1.0
        d.value(key, x, y, size, bold=big and i == 0, align=align, room=room)
        y += d.pitch * (1.15 if size > 1 else 0.95)
    return y


def line_of(d: Draft, keys: list[str], x: float, y: float, gap: float, bare: bool = False) -> float:
    """Pairs, or values alone, after each other on one line, as many lines as it takes.

    Args:
        d: the page being drafted.
        keys: of the page's values; those that it does not have are left out.
        x, y: where it begins, pixels; the result is the y below it.
        gap: between them, pixels.
        bare: values without labels.
    """
    left, right = x, d.page.width - 24
    keys = d.has(*keys)
    for key in keys:
        label = "" if bare else d.label(key, d.colon) + " "
        wide = d.width(label + d.values[key], bold=bare and d.bold_values)
        if left > x and left + wide > right:
            left, y = x, y + d.pitch
        d.put(label + d.take(key, left, y), left, y, bold=bare and d.bold_values)
        left += wide + gap
    return y + d.pitch if keys else y


def table(d: Draft, x: float, y: float, width: float, head: bool = True, ruled: bool = True) -> float:
    """Item, quantity and price in columns; no rows, no table.

    Args:
        d: the page being drafted.
        x, y: where it begins, pixels; the result is the y below it.
        width: of the block, pixels.
        head: whether the columns have titles.
        ruled: whether lines are drawn.
    """
    if not d.page.rows:
        return y
    rng = d.rng
    first = rng.random() < 0.3  # quantity before item
    heads = [rng.choice(texts) for texts in (wording.ITEM_HEADS, wording.QUANTITY_HEADS, wording.PRICE_HEADS)]
    if first or width < 500:
        heads[1] = wording.QUANTITY_HEADS[0]
    heads = [text.upper() for text in heads] if d.upper else heads
    right = x + width - 4
    price_wide = max(d.width(text, bold=d.bold_labels) for text in [heads[2], *(row[2] for row in d.page.rows)])
    quantity_wide = d.width(heads[1], bold=d.bold_labels)
    item_x, quantity_x = x + 4, min(x + width * rng.uniform(0.62, 0.7), right - price_wide - quantity_wide - d.size)
    if first:
        item_x, quantity_x = x + 4 + quantity_wide + d.size * rng.uniform(0.8, 1.5), x + 4
    if head:
        if ruled and rng.random() < 0.4:
            d.box(x, y - d.size * 1.1, x + width, y + d.size * 0.5, fill=225)
        d.put(heads[0], item_x, y, bold=d.bold_labels)
        d.put(heads[1], quantity_x, y, bold=d.bold_labels)
        d.put(heads[2], right, y, bold=d.bold_labels, align=1.0)
        if ruled:
            d.line(x, x + width, y + d.size * 0.5)
        y += d.pitch * 1.1
    for item, quantity, price in d.page.rows:
        d.put(item, item_x, y)
        d.put(quantity, quantity_x, y)
        d.put(price, right, y, align=1.0)
        y += d.pitch
    if ruled:
        d.line(x, x + width, y - d.pitch + d.size * 0.5)
    return y + d.pitch * 0.3


def totals(d: Draft, x: float, y: float, width: float) -> float:
    """Subtotal, tax and total, values at the right end, the total last and often bolder.

    Args:
        d: the page being drafted.
        x, y: where it begins, pixels; the result is the y below it.
        width: of the block, pixels.
    """
    y = pairs(d, ["subtotal", "tax"], x, y, width, "spread")
    size, bold = d.rng.choice((1.0, 1.0, 1.2, 1.3)), d.rng.random() < 0.5
    return pairs(d, ["total"], x, y + 2, width, "spread", size, bold)


def form_lines(d: Draft, keys: list[str], x: float, y: float, width: float) -> float:
    """Labels with values on ruled lines, as on paper forms.

    Args:
        d: the page being drafted.
        keys: of the page's values; those that it does not have are left out.
        x, y: where it begins, pixels; the result is the y below it.
        width: of the block, pixels.
    """
    for key in d.has(*keys):
        end = d.put(d.label(key, d.colon), x, y, bold=d.bold_labels)
        start = max(end + d.size * 0.6, x + width * 0.36)
        d.value(key, start + d.size * 0.4, y, room=x + width - start - d.size * 0.4)
        d.line(start, x + width, y + d.size * 0.35)
        y += d.pitch * 1.3
    return y


def sentences(d: Draft, x: float, y: float, width: float) -> float:
    """The values still to print, in sentences, those that say several first; values are not broken over lines.

    Args:
        d: the page being drafted.
        x, y: where it begins, pixels; the result is the y below it.
        width: of the block, pixels.
    """
    joint = list(wording.JOINT_SENTENCES)
    d.rng.shuffle(joint)
    for template in [*joint, *wording.SENTENCES]:
        if all(key in d.values for key in wording.sentence_keys(template)):
            y = _sentence(d, template, x, y, width)
    return y


def _sentence(d: Draft, template: str, x: float, y: float, width: float) -> float:
    """One sentence, on as many lines as it takes."""
    line: list[str] = []
    length, space = 0.0, d.width(" ")
    for word in d.fill_in(template).split():
        key = word.strip("{}.,") if word.startswith("{") else ""
        text = d.drawn[key] + word[len(key) + 2 :] if key else word
        wide = d.width(text)
        if line and length + wide > width:
            d.put(" ".join(line), x, y)
            y, line, length = y + d.pitch, [], 0.0
        if key:
            d.take(key, x + length, y)
        line.append(text)
        length += wide + space
    d.put(" ".join(line), x, y)
    return y + d.pitch


def note(d: Draft, texts: tuple[str, ...], x: float, y: float, align: float = 0.0, chance: float = 0.7) -> float:
    """A line that says nothing asked for; whole pages only.

    Args:
        d: the page being drafted.
        texts: one of which is printed.
        x, y: where it begins, pixels; the result is the y below it.
        align: 0: `x` is its left end; 1: its right end; 0.5: its middle.
        chance: of its being there.
    """
    if d.whole and d.rng.random() < chance:
        d.put(d.fill_in(d.rng.choice(texts)), x, y, 0.85, align=align)
        y += d.pitch
    return y


def leftovers(d: Draft, x: float, y: float, width: float) -> float:
    """Whatever no block has printed.

    Args:
        d: the page being drafted.
        x, y: where it begins, pixels; the result is the y below it.
        width: of the block, pixels.
    """
    return pairs(d, list(d.values), x, y, width, "left")
