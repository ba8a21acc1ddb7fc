"""Result files of `deed bench`, and their pictures: `NAME.json`, and where matplotlib is installed `NAME.png`, `NAME.svg`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deed.utils.files import atomic_write, write_json

from .subjects import BASELINE

INK = "#33353b"
COLORS = {
    "transformers": "#8a8d94",
    "ctranslate2": "#d6925c",
    "onnxruntime": "#9668d9",
    "openvino": "#4a7fd0",
    "deed": "#1fa28d",
}
PADDING = "#d65c97"
PLAIN_NAMES = {
    "source": "source length",
    "answer": "answer length",
    "batch": "batch",
    "layers": "layers",
    "vocab": "vocabulary",
}


def write_result(report: dict[str, Any], folder: Path, name: str, draw: Callable[[dict[str, Any]], Any]) -> list[Path]:
    """Write the report and its pictures, each whole or not at all; returns the paths, the JSON's first.

    Args:
        draw: makes a matplotlib figure of the report; not called where matplotlib is missing.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json"]
    write_json(paths[0], report, indent=1)
    if importlib.util.find_spec("matplotlib") is not None:
        figure = draw(report)
        for kind in ("png", "svg"):
            path = folder / f"{name}.{kind}"
            with atomic_write(path) as temporary:
                figure.savefig(temporary, format=kind, dpi=150)
            paths.append(path)
    return paths


def speed_figure(report: dict[str, Any]) -> Any:
    """Milliseconds per step, a bar per subject with its quartiles, a panel per shape and batch."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        if row["available"]:
            panels.setdefault((row["shape"], row["batch"]), []).append(row)
    heights = [len(rows) + 2 for rows in panels.values()] or [3]
    figure = Figure(figsize=(7.5, 0.21 * sum(heights) + 0.4), layout="constrained")
    all_axes = figure.subplots(max(1, len(panels)), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((shape, batch), rows) in zip(all_axes, panels.items(), strict=False):
        medians = [row["step_ms"]["median"] for row in rows]
        errors = [
            [row["step_ms"]["median"] - row["step_ms"]["p25"] for row in rows],
            [row["step_ms"]["p75"] - row["step_ms"]["median"] for row in rows],
        ]
        colors = [COLORS[row["runtime"].split()[0]] for row in rows]
        axes.barh(range(len(rows)), medians, color=colors, height=0.75)
        axes.errorbar(medians, range(len(rows)), xerr=errors, fmt="none", ecolor=INK, elinewidth=1)
        for i, row in enumerate(rows):
            ratio = row["times_faster_than"][BASELINE]["median"]
            axes.annotate(
                f"{ratio:.2f}×",
                (row["step_ms"]["p75"], i),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.set_yticks(range(len(rows)), [row["subject"] for row in rows], fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01)
        axes.set_xlabel("ms per decoding step; × times faster than Transformers, dynamic cache", fontsize=7)
        axes.set_title(f"{shape}, batch {batch}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def scaling_figure(report: dict[str, Any]) -> Any:
    """Over each swept quantity: decoder time per token, cells computed, memory of the caches. Small multiples."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    sweeps: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        sweeps.setdefault(row["sweep"], []).append(row)
    figure = Figure(figsize=(2.3 * max(2, len(sweeps)), 5.6), layout="constrained")
    grid = figure.subplots(3, max(1, len(sweeps)), squeeze=False, sharey="row", sharex="col", height_ratios=(2, 1, 1))
    handles: dict[str, Any] = {}
    highest = 1.0
    for (time, cells, memory), (sweep, rows) in zip(grid.T, sweeps.items(), strict=False):
        values = [row["value"] for row in rows]
        for name in rows[0]["times"]:
            times = [row["times"][name]["token_ms"] for row in rows]
            style = {"color": COLORS[name.split()[0]], "ls": dash(name), "marker": "o", "ms": 3.5}
            handles[name] = time.plot(values, [t["median"] for t in times], **style)[0]
            time.fill_between(
                values, [t["p25"] for t in times], [t["p75"] for t in times], color=style["color"], alpha=0.2, lw=0
            )
        for name in rows[0]["work"]:
            works = [row["work"][name] for row in rows]
            for key, color in (("computed_cells", COLORS["deed"]), ("padding_cells", PADDING)):
                share = [work[key] / work["full_depth_cells"] for work in works]
                line = cells.plot(values, share, color=color, ls=dash(name), marker="o", ms=3.5)[0]
                if key == "padding_cells":
                    handles["padding cells"] = line
        bytes_ = [row["memory"]["deed_bytes"] / row["memory"]["transformers_bytes"] for row in rows]
        memory.plot(values, bytes_, color=COLORS["deed"], ls=dash("deed full"), marker="o", ms=3.5)
        for axes in (time, cells, memory):
            axes.set_xscale("log", base=2)
            axes.set_xticks(values, [f"{v // 1024}k" if v >= 1024 else str(v) for v in values], fontsize=7)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(axis="x", which="minor", bottom=False)
            axes.tick_params(axis="y", which="both", labelsize=7)
        time.set_yscale("log")
        time.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        time.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "25" else ""))
        time.set_title(PLAIN_NAMES[sweep], fontsize=9)
        cells.set_ylim(0, 1.05)
        highest = max(highest, *bytes_)
    grid[2, 0].set_ylim(0, 1.1 * highest)
    grid[0, 0].set_ylabel("decoder ms per step", fontsize=8)
    grid[1, 0].set_ylabel("cells, of\nfull depth's", fontsize=8)
    grid[2, 0].set_ylabel("cache bytes, of\nTransformers'", fontsize=8)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def dash(name: str) -> str:
    """Full depth is dashed where early exit is drawn beside it."""
    return "--" if name == "deed full" else "-"
