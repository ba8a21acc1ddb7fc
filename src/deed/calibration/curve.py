"""Targets a user can set: how much score early exit may cost, or how much faster it must be.

`record_curve` measures score and decoding time of many thresholds against the same model at full depth in the same run,
and keeps the points with the model (`model.deed_config.curve`, saved in `config.json`). `set_target` reads that curve and
sets the threshold. A measured curve is no promise for other data: `deed.calibrate` gives one, with stated confidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import pstdev
from typing import Any

from deed.constants import NEVER_EXIT
from deed.errors import ExitsCostMore
from deed.modeling.answering import batches, check_batch_size
from deed.utils.progress import SILENT_BAR, Tell
from deed.utils.timing import Inputs, interleave, machine, now, spread, timed_encoder, versions

from .answering import collate, generate_all
from .exit_check import check_name, has_own_confidence, plain_values, set_exit_check, take_exit_check
from .exit_statistics import cannot_record, record_exits
from .learn_then_test import GRID, Score, score_example
from .step_costs import measure_costs
from .teacher_forcing import evaluating
from .threshold_search import search_thresholds

BUDGETS = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05)  # shares of tokens that thresholds per exit may let differ
SCORED_AT_ONCE = 32  # rows; scores do not depend on it, times are taken apart
EXACTLY = 1e-9  # a drop of 3 in 300 is one of 0.01


def record_curve(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    *,
    score: Score | None = None,
    thresholds: Sequence[float] | None = None,
    exit_checks: Sequence[str | dict[str, Any]] | None = None,
    budgets: Sequence[float] = BUDGETS,
    batch_size: int = 1,
    timed: int = 100,
    repeats: int = 1,
    progress: Tell | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Measure how score and decoding time go together, and keep it in `model.deed_config.curve`.

    Thresholds per exit are chosen on the examples at even places; every point is measured on the others. All of those are
    scored; the first `timed` are timed, full depth and all points taking turns on each batch. A model whose exits cannot
    be chosen one by one (patience, a gate) gets no points with thresholds per exit. Shuffle a data set whose order means
    something first.

    Args:
        model: a deed model.
        dataset: examples as in `deed.calibrate`.
        score: maps generated tokens and the example to [0, 1], as in `deed.calibrate`.
        thresholds: each a point, one threshold for all exits; default: the grid of `deed.calibrate`. Values in (0, 1].
        exit_checks: exit checks (as `DeedConfig` has one) to measure each threshold with; default: the model's own.
        budgets: shares of tokens that may differ, each a point with thresholds per exit; () for none.
        batch_size: rows decoded at once in the timed runs.
        timed: examples timed.
        repeats: timed rounds.
        progress: called with what is being done and the share of the whole done, 0..1.
        generate_kwargs: passed to `generate()`; record with what you will use.

    Returns:
        The curve. `points`, full depth first, each with `threshold`, `exit_check`, `budget` (None for one threshold),
        `score`, `score_drop` (full depth's mean score less the point's) and its standard error `score_drop_error`,
        `mean_depth`, `decoder_ms` (per batch: median and quartiles), `speedup` (full depth's decoding time over the
        point's, batch by batch: median and quartiles) and `speedup_total` (of the sums). Beside them numbers of
        examples, costs, settings, machine and versions.

    Raises:
        ValueError: fewer than two examples, a grid or number out of range.

    Warns:
        ExitsCostMore: early exit is no faster than full depth at any point.

    Example:
        ```python
        deed.record_curve(model, held_out, thresholds=[0.9, 0.5], timed=4, max_new_tokens=8)
        model.save_pretrained("my-model")  # the curve is kept in config.json
        ```
    """
    grid = sorted({float(t) for t in (GRID if thresholds is None else thresholds)}, reverse=True)
    if not all(0 < t <= 1 for t in grid):
        raise ValueError(f"thresholds must be numbers in (0, 1], got {list(thresholds or ())!r}")
    check_batch_size(batch_size)
    for name, value in (("timed", timed), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if exit_checks is None:
        exit_checks = generate_kwargs.pop("askings", None)
    if take_exit_check(generate_kwargs) is not None:
        raise ValueError("pass exit_checks=[…], one or more, instead of a single one for generate()")
    for name in ("exit_threshold", "exit_policy"):
        if name in generate_kwargs:
            raise ValueError(f"{name} is what a curve is measured over; leave it out, or pass thresholds=[…]")
    examples = list(dataset)
    if len(examples) < 2:
        raise ValueError(f"a curve needs at least two examples, and hundreds to mean much; got {len(examples)}")
    config, say = model.deed_config, progress or SILENT_BAR.update
    tuning, rest = examples[0::2], examples[1::2]
    before = machine()  # the load is measured before the run
    with evaluating(model):
        settings, costs = _settings(model, tuning, grid, exit_checks, budgets, say, generate_kwargs)
        points = _scored(model, rest, settings, score, say, generate_kwargs)
        times = _times(model, rest[:timed], settings, batch_size, repeats, say, generate_kwargs)
    for point, ms in zip(points, times, strict=True):
        point["decoder_ms"] = spread(ms)
        point["speedup"] = spread([full / own for full, own in zip(times[0], ms, strict=True)])
        point["speedup_total"] = sum(times[0]) / sum(ms)
    curve = {
        "points": points,
        "examples": len(rest),
        "timed": len(rest[:timed]),
        "tuning_examples": len(tuning),
        "costs": costs,
        "exit_layers": list(config.exit_layers),
        "confidence": config.confidence,
        "batch_size": batch_size,
        "repeats": repeats,
        "generate": plain_values(generate_kwargs),
        "machine": before,
        "versions": versions(),
    }
    config.curve = curve
    if not any(_early(point) and point["speedup"]["median"] > 1 for point in points):
        warnings.warn(_costs_more("at no threshold"), ExitsCostMore, stacklevel=2)
    return curve


def set_target(model: Any, *, score_drop: float | None = None, speedup: float | None = None) -> dict[str, Any]:
    """Set `model.deed_config.threshold` (and the exit check) by the recorded curve.

    Reads what `record_curve` measured and promises nothing statistically: the points' scores are means over some hundred
    examples, and the best of several is picked. For a bound that holds for new data, use `deed.calibrate`.

    Args:
        model: a deed model with a curve.
        score_drop: take the fastest point whose mean score is at most this much below full depth's, in [0, 1).
        speedup: take the best-scoring point that decodes at least this many times faster (the median), 1 or more.

    Returns:
        The point.

    Raises:
        ValueError: not exactly one target, one out of range, no curve, a curve of other exits or of another confidence,
            or a speedup that no point reaches (the message names the best).

    Warns:
        ExitsCostMore: no point within `score_drop` is faster than full depth, which is then set.

    Example:
        ```python
        deed.record_curve(model, held_out, thresholds=[0.9, 0.5], timed=4, max_new_tokens=8)
        point = deed.set_target(model, score_drop=0.01)  # the fastest measured point within that drop
        ```
    """
    if (score_drop is None) == (speedup is None):
        raise ValueError("give exactly one target: score_drop=… or speedup=…")
    if score_drop is not None and not 0 <= score_drop < 1:
        raise ValueError(f"score_drop must lie in [0, 1), got {score_drop}")
    if speedup is not None and not speedup >= 1:
        raise ValueError(f"speedup must be a number of at least 1, got {speedup}")
    points = _points(model)

    def speed(point: Mapping[str, Any]) -> float:
        return point["speedup"]["median"]

    if score_drop is not None:
        within = [p for p in points if p["score_drop"] <= score_drop + EXACTLY]
        point = max(within, key=lambda p: (speed(p), -p["score_drop"]))
        if not _early(point):
            where = f"at no threshold with a score drop of at most {score_drop:g}"
            warnings.warn(_costs_more(where), ExitsCostMore, stacklevel=2)
    else:
        reaching = [p for p in points if speed(p) >= speedup]  # type: ignore[operator]
        if not reaching:
            best = max(points, key=speed)
            raise ValueError(
                f"no recorded point is {speedup:g} times faster than full depth; the best reachable is "
                f"speedup={speed(best):.2f}, with a score drop of {best['score_drop']:.4f} at threshold {best['threshold']}"
            )
        point = min(reaching, key=lambda p: (p["score_drop"], -speed(p)))
    config, threshold = model.deed_config, point["threshold"]
    config.threshold = list(threshold) if isinstance(threshold, list) else threshold
    set_exit_check(config, take_exit_check(point))
    return point


def _points(model: Any) -> list[dict[str, Any]]:
    """The points of the model's curve, full depth first."""
    config = model.deed_config
    curve = getattr(config, "curve", None)
    if not curve or not curve.get("points"):
        raise ValueError(
            "no score-latency curve is recorded with this model; run deed.record_curve(model, examples) or "
            "`deed bench curve FOLDER` first"
        )
    for name in ("exit_layers", "confidence"):
        if curve.get(name) != getattr(config, name):
            raise ValueError(
                f"the recorded curve is for {name}={curve.get(name)!r}, the model has {getattr(config, name)!r}; "
                "record it again with deed.record_curve"
            )
    return curve["points"]


def _early(point: Mapping[str, Any]) -> bool:
    """Whether any exit before the last is checked."""
    value = point["threshold"]
    return min(value if isinstance(value, list) else [value]) <= 1


def _costs_more(where: str) -> str:
    return (
        f"this model's exits cost more than they save: {where} it decodes faster than at full depth; try fewer exits or a "
        f"cheaper exit check (DeedConfig.exit_check), or leave the threshold at 2.0"
    )


@dataclass(frozen=True)
class _Setting:
    """What is measured: a threshold, the exit check, and for thresholds per exit the share of tokens that may differ.

    `options` passes the exit check to `generate()`, where it is not the model's own.
    """

    threshold: float | list[float]
    exit_check: Any
    options: dict[str, Any]
    budget: float | None = None


def _settings(
    model: Any,
    tuning: list[dict[str, Any]],
    grid: list[float],
    exit_checks: Sequence[str | dict[str, Any]] | None,
    budgets: Sequence[float],
    say: Tell,
    options: dict[str, Any],
) -> tuple[list[_Setting], dict[str, Any]]:
    """Full depth, then every threshold and every choice of thresholds per exit under every exit check; and the costs
    measured, by the check's name."""
    config = model.deed_config
    own, exits = config.exit_check, len(config.exit_layers) - 1
    checks = [own] if exit_checks is None else list(exit_checks)
    found, costs, statistics = [_Setting(NEVER_EXIT, own, {})], {}, None
    recordable = [check for check in checks if not has_own_confidence(check)]
    if budgets and exits and recordable and cannot_record(model, config.confidence) is None:
        say("what every exit says", 0.0)
        statistics = record_exits(model, tuning, confidence=config.confidence, **options)
    for check in checks:
        name, passed = check_name(check), {} if exit_checks is None else {"exit_check": check}
        found += [_Setting(threshold, check, passed) for threshold in grid]
        if statistics is None or check not in recordable:
            continue
        say(f"what an exit costs ({name})", 0.05)
        measured = measure_costs(model, collate(model, tuning[:1]), **passed)  # type: ignore[arg-type]
        costs[name] = asdict(measured)
        met: list[list[float]] = [[NEVER_EXIT] * exits]
        for choice in search_thresholds(statistics, measured, sorted(set(budgets)), hold_out=False):
            if choice.thresholds not in met:
                met.append(choice.thresholds)
                found.append(_Setting(choice.thresholds, check, passed, choice.budget))
    return found, costs


def _scored(
    model: Any,
    examples: list[dict[str, Any]],
    settings: list[_Setting],
    score: Score | None,
    say: Tell,
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """A point per setting, without times."""
    points: list[dict[str, Any]] = []
    reference: list[list[int]] = []
    full_scores: list[float] = []
    for i, setting in enumerate(settings):
        say("scores", 0.1 + 0.3 * i / len(settings))
        answers, depth = generate_all(
            model,
            examples,
            setting.threshold,
            SCORED_AT_ONCE,
            {**options, **setting.options},
        )
        reference = reference or answers
        scores = [
            score_example(model, score, a, x, full) for a, x, full in zip(answers, examples, reference, strict=True)
        ]
        full_scores = full_scores or scores
        drops = [full - early for full, early in zip(full_scores, scores, strict=True)]
        points.append(
            {
                "threshold": setting.threshold,
                "exit_check": setting.exit_check,
                "budget": setting.budget,
                "score": sum(scores) / len(scores),
                "score_drop": sum(drops) / len(drops),
                "score_drop_error": pstdev(drops) / len(drops) ** 0.5,
                "mean_depth": depth,
            }
        )
    return points


def _times(
    model: Any,
    examples: list[dict[str, Any]],
    settings: list[_Setting],
    batch_size: int,
    repeats: int,
    say: Tell,
    options: dict[str, Any],
) -> list[list[float]]:
    """Milliseconds of decoding per batch and round, of every setting, all taking turns."""
    inputs = [collate(model, [examples[i] for i in part]) for part in batches(examples, batch_size)] * repeats
    done, total = 0, len(inputs) * len(settings)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        say("times", 0.4 + 0.6 * done / total)

    with timed_encoder(model) as clock:

        def answerer(setting: _Setting) -> Callable[[Inputs], Any]:
            def answer(inputs: Inputs) -> float:
                clock.take()
                start = now(model.device)
                model.generate(**inputs, **options, **setting.options, exit_threshold=setting.threshold)
                return 1e3 * (now(model.device) - start - clock.take())

            return answer

        runs: dict[str, Any] = interleave({str(i): answerer(s) for i, s in enumerate(settings)}, inputs, 1, tick)
    return [runs[str(i)] for i in range(len(settings))]
