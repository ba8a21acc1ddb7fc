"""Pictures of `deed bench serve`."""

from __future__ import annotations

from typing import Any

from .plots import COLORS, INK

MORE = {**COLORS, "litserve": "#c9b458"}


def serve_figure(report: dict[str, Any]) -> Any:
    """Tokens per second against 95th percentile latency, a line per server over the loads; of a soak, memory over time."""
    return memory_figure(report) if report["kind"] == "soak" else load_figure(report)


def load_figure(report: dict[str, Any]) -> Any:
    """A panel per shape and kind of load."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str, bool], list[dict[str, Any]]] = {}
    for row in report["summary"]:
        panels.setdefault((row["shape"], row["answers"], row["load"]["kind"], row["stream"]), []).append(row)
    count = max(1, len(panels))
    figure = Figure(figsize=(4.6 * count, 4.2), layout="constrained")
    handles: dict[str, Any] = {}
    for axes, ((shape, answers, kind, stream), rows) in zip(
        figure.subplots(1, count, squeeze=False)[0], panels.items(), strict=False
    ):
        for subject in dict.fromkeys(r["subject"] for r in rows):
            own = sorted((r for r in rows if r["subject"] == subject), key=lambda r: size(r["load"]))
            handles[subject] = axes.plot(
                [r["p95_ms"]["median"] for r in own],
                [r["tokens_per_s"]["median"] for r in own],
                color=MORE[subject.split()[0]],
                ls="--" if "int8" in subject else "-",
                marker="s" if "full" in subject else "o",
                ms=4,
            )[0]
            for row in own:
                point = (row["p95_ms"]["median"], row["tokens_per_s"]["median"])
                axes.annotate(f"{size(row['load']):g}", point, (3, 3), textcoords="offset points", fontsize=6)
        axes.set_xscale("log")
        axes.set_xlabel("95th percentile of latency, ms", fontsize=8)
        axes.set_ylabel("tokens per second", fontsize=8)
        axes.tick_params(labelsize=7)
        of = "clients" if kind == "closed" else "arrivals a second"
        axes.set_title(f"{shape}, answers of {answers}; points: {of}{', streams' if stream else ''}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def memory_figure(report: dict[str, Any]) -> Any:
    """Resident memory of the server over the minutes of a soak."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 2.8), layout="constrained")
    axes = figure.subplots()
    series = report["result"]["memory_mb"]
    axes.plot([t / 60 for t, _ in series], [mb for _, mb in series], color=COLORS["deed"])
    axes.set_ylim(0, 1.15 * max((mb for _, mb in series), default=1.0))
    axes.set_xlabel("minutes", fontsize=8)
    axes.set_ylabel("resident MB", fontsize=8)
    axes.set_title(f"{report['shape']}, {report['subject']}", fontsize=9, color=INK)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def size(load: dict[str, Any]) -> float:
    """Clients, or arrivals a second."""
    return float(load.get("clients", load.get("rate", 0)))
