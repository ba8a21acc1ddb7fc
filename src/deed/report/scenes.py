"""The report's scenes: what `report.json` says of a picture and where boxes and labels go; the picture for the page.

As for pages (sheets.py), marks are laid over the picture by the page itself (scenes.html.j2).
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from typing import Any

from .labels import place_labels
from .places import Box
from .sheets import LABEL


def scene_entry(name: str, place: str, scene: Any, answers: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """A scene's entry: name, size, and per answer its row of the report, that of an expression with its box.

    Args:
        place: which part of the sample it belongs to.
        scene: `side` in px and `things`, each with its `box`.
        answers: examples of the report, each with its index there; those of `refer` have `box` and `expected_box`, px.

    Returns:
        `answers` holds `{"example"}`; where a box was given also `box` and, where that is another one, `expected_box` (of
        0..1000, corners in order), `depth` (the mean of its tokens), `label` and its `side`.
    """
    size = (scene.side, scene.side)
    found: list[dict[str, Any]] = []
    for index, e in answers:
        entry: dict[str, Any] = {"example": index}
        if e["task"] == "refer":
            wanted = on_thousand(e["expected_box"], size)
            if e["box"] is None:
                entry["expected_box"] = wanted
            else:
                box = on_thousand(e["box"], size)
                label = textwrap.shorten(e["question"], LABEL, placeholder=" …")
                depth = sum(e["depths"]) / len(e["depths"])
                things = [on_thousand(thing.box, size) for thing in scene.things]
                (side,) = place_labels([(f"{label} {depth:.1f}", box)], things, size, [wanted])
                entry |= {"box": box, "label": label, "depth": depth, "side": side}
                if not alike(e["box"], e["expected_box"]):
                    entry["expected_box"] = wanted
        found.append(entry)
    return {"name": name, "place": place, "size": list(size), "answers": found}


def on_thousand(box: Sequence[float], size: tuple[int, int]) -> Box:
    """A box in px on 0..1000 of the picture, corners in order."""
    x0, x1 = sorted(round(1000 * x / size[0]) for x in (box[0], box[2]))
    y0, y1 = sorted(round(1000 * y / size[1]) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def alike(box: Sequence[float], other: Sequence[float], slack: float = 1.0) -> bool:
    """Whether no border of one is further from the other's than location bins may cost.

    Args:
        box, other: borders in the same order, px.
        slack: px.
    """
    return all(abs(a - b) <= slack for a, b in zip(box, other, strict=True))


def exact_uri(image: Any) -> str:
    """A small `PIL.Image.Image`, pixel by pixel as it is, as a PNG data URI."""
    out = io.BytesIO()
    image.convert("RGB").save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
