"""What `deed demo` measures, whatever the task: base class and early exit in turns, then other thresholds; and the part
of `report.json` that follows from it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deed.bench import compare as bench
from deed.constants import GREEDY
from deed.utils import timing

from .shared import busy_note


@dataclass
class Measured:
    """Runs on the counted inputs and on all of them, scores and the curve.

    Attributes:
        everything: runs on all inputs, those of the user first.
        full, deed: runs on the counted inputs.
        full_score, deed_score: what `score` gave for each, `"score"` among it.
    """

    everything: bench.Comparison
    full: bench.Runs
    deed: bench.Runs
    full_score: dict[str, Any]
    deed_score: dict[str, Any]
    curve: dict[str, Any]
    machine: dict[str, Any]


def measure(
    base: Any,
    model: Any,
    inputs: Sequence[bench.Inputs],
    threshold: Any,
    decode: bench.Decode,
    score: Callable[[Sequence[Any]], dict[str, Any]],
    answer_all: Callable[[float, bench.Tick], tuple[Sequence[Any], float]],
    bars: Any,
    *,
    uncounted: int = 0,
    timed: int,
    thresholds: Sequence[float] = bench.THRESHOLDS,
    by_tokens: bool = False,
) -> Measured:
    """All runs, under the progress bars given.

    Args:
        score: predictions for the counted inputs to `{"score", …}`.
        answer_all: counted inputs in batches at a threshold to predictions and mean depth.
        uncounted: so many of the inputs, the first, are the user's own.
        timed: the curve is timed on so many of the others, the first.
        thresholds: of the curve, the one in use apart; a threshold per exit gets no curve.
        by_tokens: predictions are token ids, where scores need more than the text; else decoded texts.
    """
    machine, n = timing.machine(), len(inputs) - uncounted
    others: list[float] = sorted({*thresholds, threshold}) if isinstance(threshold, (int, float)) else []
    subset = inputs[uncounted:][:timed]
    first = bars.add_task("full depth and early exit", total=2 * len(inputs))
    curve_total = (1 + len(others)) * len(subset) + len(others) * n
    second = bars.add_task("other thresholds", total=curve_total, visible=bool(others))

    def tick(k: int) -> None:
        bars.advance(second, k)

    both = bench.compare(base, model, inputs, threshold, decode, tick=lambda k: bars.advance(first, k), **GREEDY)
    full = bench.Runs(None, both.full.runs[uncounted:])
    deed = bench.Runs(threshold, both.deed.runs[uncounted:])
    full_score, deed_score = (
        score([run.tokens for run in subject.runs] if by_tokens else subject.predictions) for subject in (full, deed)
    )
    points, curve_base = [], full
    if others:
        curve_base, subjects = bench.latency_curve(base, model, subset, others, decode, tick=tick, **GREEDY)
        for subject in subjects:
            # Timed on some inputs, scored on all of them: some alone would tell scores apart too coarsely.
            predictions, depth = answer_all(subject.threshold, tick)  # type: ignore[arg-type]
            point = {"threshold": subject.threshold, "score": score(predictions)["score"], **subject.summary()}
            points.append({**point, "mean_depth": depth})
    curve = {
        "timed_inputs": len(subset),
        "scored_inputs": n,
        "full_depth": {**curve_base.summary(), "score": full_score["score"]},
        "points": points,
    }
    return Measured(both, full, deed, full_score, deed_score, curve, machine)


def common_results(
    measured: Measured,
    examples: Sequence[dict[str, Any]],
    model: Any,
    folder: Path,
    source: str,
    note: str | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The keys of `report.json` that every task has.

    Args:
        examples: rows of the report, the user's own marked `asked`.
        source, note: as `pick_threshold` gave them.
        settings: of the task, shown beside those of model and threshold.
    """
    full, deed = measured.full, measured.deed
    counted = [e for e in examples if not e["asked"]]
    n_layers = len(model.deed_family.layers(model))
    config, report = model.deed_config, model.deed_config.calibration
    promise = f"score at most {report['risk']} lower, {report['confidence']:.0%} sure" if report else "none"
    if report and report.get("others"):  # calibrated on each task by itself, the strictest threshold kept
        promise = f"each task's {promise}"
    return {
        "notes": [text for text in (note, busy_note(measured.machine)) if text],
        "n_layers": n_layers,
        "full_depth": {**measured.full_score, **full.summary()},
        "deed": {**measured.deed_score, **deed.summary(), "threshold": deed.threshold, "threshold_source": source},
        "saving": bench.Comparison(full, deed).saving(),
        "changes": {
            "lost": sum(e["full_depth_right"] and not e["right"] for e in counted),
            "gained": sum(e["right"] and not e["full_depth_right"] for e in counted),
        },
        "curve": measured.curve,
        "depth_histogram": bench.depth_histogram(deed.runs, n_layers),
        "depth_by_position": bench.depth_by_position(deed.runs),
        "examples": list(examples),
        "calibration": report,
        "settings": {
            "model": str(folder),
            **settings,
            "threshold": f"{deed.threshold} ({source})",
            "promise": promise,
            "confidence": str(config.confidence),
            "exits": ", ".join(map(str, config.exit_layers)),
            "adaptation_modules": config.adapter,
            "decoding": "greedy, batch 1",
        },
        "versions": timing.versions(),
        "machine": measured.machine,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def part_results(
    measured: Measured,
    at: Sequence[int],
    n_layers: int,
    full_score: dict[str, Any],
    deed_score: dict[str, Any],
) -> dict[str, Any]:
    """The headline numbers of a part of the counted inputs: scores as given, times, savings, depths.

    Args:
        at: which inputs.
    """
    full = bench.Runs(None, [measured.full.runs[i] for i in at])
    deed = bench.Runs(measured.deed.threshold, [measured.deed.runs[i] for i in at])
    saving = bench.Comparison(full, deed).saving()
    return {
        "full_depth": {**full_score, **full.summary()},
        "deed": {**deed_score, **deed.summary()},
        "saving": {"decoder": saving["decoder"], "overall": saving["overall"]},
        "depth_histogram": bench.depth_histogram(deed.runs, n_layers),
    }


def timed_pair(full: bench.Run, deed: bench.Run, tokenizer: Any) -> dict[str, Any]:
    """What an example's row says of its two runs."""
    return {
        "answer": deed.prediction,
        "tokens": tokenizer.convert_ids_to_tokens(deed.tokens),
        "depths": deed.depths,
        "overall_ms": deed.overall_ms,
        "decoder_ms": deed.decoder_ms,
        "full_depth": full.prediction,
        "full_depth_tokens": tokenizer.convert_ids_to_tokens(full.tokens),
        "full_depth_overall_ms": full.overall_ms,
        "full_depth_decoder_ms": full.decoder_ms,
    }
