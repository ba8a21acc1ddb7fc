"""The picture of `deed bench speech`: time over the sound's own, in its parts, a bar per subject and a panel per workload."""

from __future__ import annotations

from typing import Any

from .plots import COLORS, INK

SHADES = {"features": 0.35, "encoder": 0.65, "decoder": 1.0}  # how strong a part's color is
OTHERS = {"faster-whisper": COLORS["ctranslate2"]}


def speech_figure(report: dict[str, Any]) -> Any:
    """A matplotlib figure of a report."""
    from matplotlib.figure import Figure

    panels = {
        workload["workload"]: [r for r in report["rows"] if r["workload"] == workload["workload"] and r["available"]]
        for workload in report["workloads"]
    }
    heights = [len(rows) + 2 for rows in panels.values()] or [3]
    figure = Figure(figsize=(7.5, 0.24 * sum(heights) + 0.5), layout="constrained")
    all_axes = figure.subplots(max(1, len(panels)), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (workload, rows) in zip(all_axes, panels.items(), strict=False):
        for i, row in enumerate(rows):
            kind = row["runtime"].split()[0]
            color, left = OTHERS.get(kind) or COLORS[kind], 0.0
            for part, shade in SHADES.items():
                width = row["real_time_factor"] * row["share"][part]
                axes.barh(i, width, left=left, color=color, alpha=shade, height=0.75)
                left += width
            axes.annotate(
                f"WER {row['wer']:.1f}",
                (left, i),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=INK,
            )
        axes.set_yticks(range(len(rows)), [row["subject"] for row in rows], fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.14, y=0.01)
        axes.set_xlabel("seconds per second of sound: spectrograms, encoder, decoder (from pale to full)", fontsize=7)
        axes.set_title(workload, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
