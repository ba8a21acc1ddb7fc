"""What a load run says: rates, latencies, gaps between tokens, answers that are wrong; and ratios between subjects."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from deed.utils.timing import spread

from .serve_load import REFUSED, Reply

KEPT = 20  # wrong answers that a result keeps
PEER = "ctranslate2"


def percentiles(values: Sequence[float]) -> dict[str, float | int]:
    """`{"p50", "p95", "p99", "most", "n"}`; nothing but `n` where there are no values."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    at = {f"p{p}": ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] for p in (50, 95, 99)}
    return {**at, "most": ordered[-1], "n": len(ordered)}


def summary(
    replies: Sequence[Reply], lengths: Sequence[int], texts: Sequence[str], window: tuple[float, float], by_end: bool
) -> dict[str, Any]:
    """One run in numbers; times in milliseconds.

    An answer that is under way at an end of the window counts for the part of its time that lies in it.

    Args:
        replies: all of the run.
        lengths: tokens of each request's answer.
        texts: of the answers alone, by request.
        window: start and end, seconds; what came before was to warm up.
        by_end: latencies of the answers that ended in the window (closed clients); else of those asked in it.
    """
    start, end = window
    answered = [r for r in replies if r.ok]

    def rate(weight: Callable[[Reply], float]) -> float:
        shares = ((weight(r), min(r.end, end) - max(r.start, start), r.end - r.start) for r in answered)
        return sum(w * inside / whole for w, inside, whole in shares if inside > 0) / (end - start)

    inside = [r for r in answered if start <= (r.end if by_end else r.start) <= end]
    streamed = [r for r in inside if r.arrivals]
    wrong = [r for r in answered if r.text != texts[r.index]]
    values = {
        "tokens_per_s": rate(lambda r: lengths[r.index]),
        "requests_per_s": rate(lambda r: 1.0),
        "latency_ms": percentiles([(r.end - r.start) * 1e3 for r in inside]),
        "sent": len(replies),
        "answered": len(answered),
        "refused": sum(r.status in REFUSED for r in replies),
        "errors": sum(not r.ok and r.status not in REFUSED for r in replies),
        "wrong": len(wrong),
        "wrong_answers": [{"request": r.index, "got": r.text} for r in wrong[:KEPT]],
        "said": sorted({r.error for r in replies if r.error is not None})[:3],
    }
    if streamed:
        values["first_token_ms"] = percentiles([(r.arrivals[0] - r.start) * 1e3 for r in streamed])
        values["gap_ms"] = percentiles([(b - a) * 1e3 for r in streamed for a, b in pairwise(r.arrivals)])
    return values


def compare(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per shape, load and subject: medians over the rounds, and ratios to CTranslate2 of the same round and precision, and to
    the faster of its precisions. A ratio of tokens per second above 1 and one of latency below 1 is better than it."""

    def key(row: dict[str, Any]) -> tuple[str, str, str, bool]:
        return row["shape"], row["answers"], str(row["load"]), row["stream"]

    measured = [r for r in rows if r["available"]]
    found = []
    for group in dict.fromkeys(map(key, measured)):
        here = [r for r in measured if key(r) == group]
        for subject in dict.fromkeys(r["subject"] for r in here):
            own = [r for r in here if r["subject"] == subject]
            values = {k: own[0][k] for k in ("shape", "answers", "load", "stream", "subject")}
            values["rounds"] = len(own)
            values["tokens_per_s"] = spread([r["tokens_per_s"] for r in own])
            values["requests_per_s"] = spread([r["requests_per_s"] for r in own])
            for name in ("p50", "p95", "p99"):
                values[f"{name}_ms"] = spread([r["latency_ms"][name] for r in own if r["latency_ms"]["n"]] or [0.0])
            for name in ("first_token_ms", "gap_ms"):
                there = [r[name]["p95"] for r in own if r.get(name, {"n": 0})["n"]]
                values[f"{name}_p95"] = spread(there) if there else None
            for name in ("refused", "errors", "wrong", "answered"):
                values[name] = sum(r[name] for r in own)
            values["ties"] = sum(r.get("ties", 0) for r in own)
            values["memory_mb"] = max(r["memory_mb"]["most"] for r in own)
            values["against"] = {name: ratios(own, here, pick) for name, pick in rivals(subject).items()}
            found.append(values)
    return found


def rivals(subject: str) -> dict[str, Callable[[Sequence[dict[str, Any]]], dict[str, Any] | None]]:
    """What a subject is held against: names to functions that choose among the rows of one round."""

    def same(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        wanted = f"{PEER} {subject.split()[1]}"
        return next((r for r in rows if r["subject"] == wanted), None)

    def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        others = [r for r in rows if r["subject"].startswith(PEER)]
        return max(others, key=lambda r: r["tokens_per_s"], default=None)

    return {f"{PEER} in the same precision": same, f"{PEER}'s faster precision": best}


def ratios(
    own: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    pick: Callable[[Sequence[dict[str, Any]]], dict[str, Any] | None],
) -> dict[str, Any] | None:
    """Ratios of tokens per second and of 95th percentile latencies, round by round.

    Args:
        own: rows of a subject.
        others: rows of all subjects under the same load.
        pick: the row to divide by, out of those of one round.
    """
    pairs = [(row, pick([r for r in others if r["round"] == row["round"]])) for row in own]
    there = [(a, b) for a, b in pairs if b is not None and b["tokens_per_s"] > 0]
    if not there:
        return None
    slow = [(a["latency_ms"], b["latency_ms"]) for a, b in there if a["latency_ms"]["n"] and b["latency_ms"]["n"]]
    return {
        "tokens_per_s": spread([a["tokens_per_s"] / b["tokens_per_s"] for a, b in there]),
        "p95": spread([a["p95"] / b["p95"] for a, b in slow]) if slow else None,
    }


def memory_summary(series: Sequence[tuple[float, int]], unit: int) -> dict[str, Any]:
    """First, median, largest and last, in units of `unit` bytes."""
    sizes = [size / unit for _, size in series] or [0.0]
    return {"first": sizes[0], "median": statistics.median(sizes), "most": max(sizes), "last": sizes[-1]}
