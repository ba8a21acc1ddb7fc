"""Draws docs/architecture.svg: the rooms of src/deed as the contracts in pyproject.toml stack them.

    python docs/draw_architecture.py

A room that a contract names and that has no line in `ROOMS` is an error, so the picture cannot fall behind the contracts.
"""

from __future__ import annotations

from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
ROOMS = {
    "cli": "one file per verb",
    "serving": "scheduler, HTTP",
    "recipes": "what deed train runs",
    "bench": "measuring speed",
    "report": "HTML reports",
    "pipelines": "one-line use",
    "tasks": "examples, encoding, scores: g2p, documents, pictures",
    "calibration": "thresholds, curves, fits",
    "training": "Trainer, run folders",
    "modeling": "get_deed_model, generate(), loss, saving, loading",
    "config": "DeedConfig: every option, checked once",
    "engine": "staircase, cache, one decoding step, CUDA graphs",
    "policies": "confidence measures, thresholds, exit checks",
    "exits": "adaptation modules, heads",
    "families": "how to drive one kind of decoder",
    "kernels": "linear layers: float32, int8",
    "data": "readers of data sets, generated data",
    "models": "LaTr++ and OFA, in Transformers' style",
    "ocr": "words and boxes",
    "metrics": "ANLS, CIDEr-D, IoU …",
    "utils": "files, images, timing",
    "constants": "shared constants",
    "errors": "kinds of errors",
}
GROUND = {"utils", "constants", "errors"}
LEFT, SIDE, GAP, HEIGHT, TOP = 64, 400, 8, 44, 84  # px; SIDE is the width of a column
STYLE = """
    text { font-family: ui-sans-serif, system-ui, sans-serif; font-size: 12.5px; fill: #24292f; }
    .name { font-weight: 600; font-size: 14px; }
    .note { fill: #57606a; }
    .exit { fill: #dcebfa; stroke: #2f6fb0; }
    .plain { fill: #fdebd9; stroke: #d9822b; }
    .above { fill: #e6f3e6; stroke: #3d8b4a; }
    .ground { fill: #eceff2; stroke: #8b949e; }
    .planned { stroke-dasharray: 5 4; fill: #ffffff; }
    .arrow { stroke: #57606a; stroke-width: 1.5; fill: none; }"""


def layers(contract: int) -> list[list[str]]:
    """The rooms of a layers contract, top first; those of one layer together, `(planned)` ones in parentheses."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return [[room.strip() for room in layer.split("|")] for layer in contracts[contract]["layers"]]


def box(room: str, kind: str, x: float, y: float, width: float, height: float = HEIGHT) -> str:
    """One room: its name, and what it is for below it."""
    name = room.strip("()")
    planned = not any((ROOT / "src" / "deed" / place).exists() for place in (name, f"{name}.py"))
    middle, at = x + width / 2, y + height / 2
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    if planned:
        kind, name_shown = f"{kind} planned", f"{name} (planned)"
    else:
        name_shown = name
    return (
        f'  <rect class="{kind}" {place} rx="6"/>\n'
        f'  <text class="name" x="{middle:g}" y="{at - 3:g}" text-anchor="middle">{name_shown}</text>\n'
        f'  <text class="note" x="{middle:g}" y="{at + 14:g}" text-anchor="middle">{ROOMS[name]}</text>\n'
    )


def row(rooms: list[str], kind: str, x: float, y: float, width: float, height: float = HEIGHT) -> str:
    """Rooms of one layer, side by side."""
    each = (width - GAP * (len(rooms) - 1)) / len(rooms)
    return "".join(box(room, kind, x + i * (each + GAP), y, each, height) for i, room in enumerate(rooms))


def draw() -> str:
    """The picture as SVG: rooms above tasks, then early exit on the left beside models and data, utilities at the bottom."""
    rooms, beside = layers(0), layers(1)
    cut = next(i for i, layer in enumerate(rooms) if "tasks" in layer)
    above, exit_rooms = rooms[: cut + 1], [layer for layer in rooms[cut + 1 :] if not GROUND & {*layer}]
    plain_rooms = [layer for layer in beside if not ({"tasks"} | GROUND) & {*layer}]
    ground = [[room for layer in rooms for room in layer if room in GROUND]]
    width, step = 2 * SIDE + 24, HEIGHT + GAP
    y, parts = TOP, []
    for layer in above:
        parts.append(row(layer, "above", LEFT, y, width))
        y += step
    y += 30
    headings = [
        f'  <text class="note" x="{x:g}" y="{y - 10:g}" text-anchor="middle">{text}</text>\n'
        for x, text in (
            (LEFT + SIDE / 2, "early exit"),
            (LEFT + SIDE + 24 + SIDE / 2, "models and data: these know nothing of early exit"),
        )
    ]
    parts += headings
    bottom = y + len(exit_rooms) * step
    for i, layer in enumerate(exit_rooms):
        parts.append(row(layer, "exit", LEFT, y + i * step, SIDE))
    tall = (bottom - y) / len(plain_rooms)
    for i, layer in enumerate(plain_rooms):
        parts.append(row(layer, "plain", LEFT + SIDE + 24, y + i * tall, SIDE, tall - GAP))
    y = bottom + 14
    parts.append(row(ground[0], "ground", LEFT, y, width))
    end = y + HEIGHT
    total_w, total_h = LEFT + width + 24, end + 24
    rule = "A room imports only rooms below it; rooms side by side in one layer do not import each other."
    size = f'viewBox="0 0 {total_w:g} {total_h:g}" width="{total_w:g}" height="{total_h:g}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">
  <title id="title">The rooms of deed</title>
  <desc id="desc">Packages of src/deed stacked by who may import whom: a room imports only rooms below it.</desc>
  <style>{STYLE}
  </style>
  <defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="8" markerHeight="8" orient="auto">
    <path d="M0 0 L10 5 L0 10 z" fill="#57606a"/></marker></defs>
  <rect x="1" y="1" width="{total_w - 2:g}" height="{total_h - 2:g}" rx="12" fill="#ffffff" stroke="#d0d7de"/>
  <text class="name" x="{LEFT}" y="36">src/deed</text>
  <text class="note" x="{LEFT}" y="58">{rule}</text>
  <path class="arrow" d="M32 {TOP} V{end:g}" marker-end="url(#head)"/>
  <text class="note" transform="translate(24 {(TOP + end) / 2:g}) rotate(-90)" text-anchor="middle">imports</text>
{"".join(parts)}</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
