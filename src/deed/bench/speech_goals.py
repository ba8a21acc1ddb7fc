"""How a run of `deed bench speech` stands against the goals of its issue, computed from what was heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RIVAL = "faster-whisper int8"
BASELINE = "transformers fp32"
NOT_SLOWER, EXACT, EARLY = 1.0, 1.25, 1.3
POINTS = 0.3  # of the word error rate that early exit may cost
DEPTH, CHANGED = 0.70, 0.02  # of the layers, and of the tokens


def goal_rows(report: Mapping[str, Any], heard: Sequence[str]) -> list[dict[str, Any]]:
    """Each goal that the run can say something about.

    Args:
        report: with `rows` and `quality`.
        heard: names of the workloads.

    Returns:
        Per goal: `goal`, `workload`, `wanted`, `reached` (a spread; of counts and shares a number), `met`, `subject`,
        `against`.
    """
    rows = {(row["workload"], row["subject"]): row for row in report["rows"] if row["available"]}
    quality = {(row["kind"], row["subject"]): row for row in report["quality"]}
    found: list[dict[str, Any]] = []

    def add(goal: str, workload: str, wanted: str, reached: Any, met: bool, subject: str, against: str | None) -> None:
        found.append(
            {
                "goal": goal,
                "workload": workload,
                "wanted": wanted,
                "reached": reached,
                "met": met,
                "subject": subject,
                "against": against,
            }
        )

    for kind in ("short", "long"):
        row = quality.get((kind, "deed fp32 full"))
        other = [rows[key] for key in rows if key[1] == "deed fp32 full" and key[0].startswith(kind)]
        counts = [row["same_text_as_transformers"] for row in other if "same_text_as_transformers" in row]
        if row is not None and counts:
            same, of = sum(c["same"] for c in counts), sum(c["of"] for c in counts)
            add(
                "full depth fp32, texts that are Transformers'",
                kind,
                f"{of}",
                same,
                same == of,
                "deed fp32 full",
                BASELINE,
            )
    for workload in heard:
        full = rows.get((workload, "deed int8 full"))
        if full is not None and RIVAL in full["times_faster_than"]:
            ratio = full["times_faster_than"][RIVAL]
            met = ratio["median"] >= NOT_SLOWER
            add(
                "full depth int8 / faster-whisper int8",
                workload,
                f">= {NOT_SLOWER:g}",
                ratio,
                met,
                full["subject"],
                RIVAL,
            )
    for workload in heard:
        for precision in ("fp32", "int8"):
            exact, own = rows.get((workload, f"deed {precision} exact")), f"deed {precision} full"
            if exact is not None and "full depth of its runtime" in exact["decoder_times_faster_than"]:
                ratio = exact["decoder_times_faster_than"]["full depth of its runtime"]
                met = ratio["median"] >= EXACT
                add(
                    f"exact {precision}, decoder / full depth's",
                    workload,
                    f">= {EXACT:g}",
                    ratio,
                    met,
                    exact["subject"],
                    own,
                )
    for workload in heard:
        kind = workload.split(",")[0]
        early = [
            row
            for (where, name), row in rows.items()
            if where == workload and " early " in name and quality[kind, name]["wer_change"]["points"] <= POINTS
        ]
        for what, key in (("whole", "times_faster_than"), ("decoder", "decoder_times_faster_than")):
            able = [row for row in early if "full depth of its runtime" in row[key]]
            if able:
                best = max(able, key=lambda row: row[key]["full depth of its runtime"]["median"])
                ratio = best[key]["full depth of its runtime"]
                goal = f"early exit at WER +{POINTS:g} points at most, {what} / full depth's"
                own = f"{best['runtime']} full"
                add(goal, workload, f">= {EARLY:g}", ratio, ratio["median"] >= EARLY, best["subject"], own)
    for (kind, name), row in quality.items():
        if " early " in name and row.get("depth") and row["tokens_changed"] is not None:
            share = row["depth"]["mean_layers"] / row["layers"]
            met = share <= DEPTH and row["tokens_changed"] <= CHANGED
            goal = f"depth, exits' layers counted, with {CHANGED:.0%} of tokens changed at most ({row['tokens_changed']:.1%})"
            add(goal, kind, f"<= {DEPTH:.2f}", share, met, name, row["against"])
    return found


__all__ = ["goal_rows"]
