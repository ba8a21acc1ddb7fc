"""What `deed demo` does whatever the task: a sample is answered by the untouched base class and with early exit in turns,
then at other thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deed.bench import compare as bench
from deed.constants import GREEDY
from deed.modeling.answering import generate_rows
from deed.utils import timing
from deed.utils.progress import Progress, RichProgress

from .demo_results import Judge, Measured, Question, common_results, example_rows
from .shared import pick_threshold, quiet_libraries


@dataclass
class Sample:
    """All that is asked, the user's own first.

    Attributes:
        about: what the report says of the sample: `title`, `task`, `unit`, `score_name`, and what else its kind has.
        settings: shown beside those of model and threshold.
        kept: what `complete` of the demo needs.
    """

    asked: list[Question]
    about: dict[str, Any]
    settings: dict[str, Any]
    kept: Any = None


@dataclass
class Page:
    """What a report is made of: the results, which are `report.json`, pictures of its sheets as data URIs, and small ones
    by name."""

    results: dict[str, Any]
    pictures: list[str] = field(default_factory=list)
    thumbs: dict[str, str] = field(default_factory=dict)


def run_demo(
    show: Any, folder: Path, count: int, words: Sequence[str], given: float | None, quiet: bool = False
) -> Page:
    """Take a demo's sample, measure it, and tell of it.

    Args:
        show: of which demo: `loaded_by()` (the task that loads the model), `sample(processor, count, words, bars)`,
            `complete(page, sample, measured, judge, processor)`, `TIMED`, `THRESHOLDS`.
        folder: of the model.
        count: size of the sample, as the demo counts.
        words: the user's own.
        given: the threshold; None: the model's own.
        quiet: no progress bars.
    """
    from transformers import AutoModelForSeq2SeqLM

    quiet_libraries()
    model, processor = show.loaded_by().load(folder)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = getattr(processor, "tokenizer", processor)
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    with RichProgress(quiet) as bars:
        sample = show.sample(processor, count, words, bars)
        asked = sample.asked
        counted = [a for a in asked if not a.own]
        judge = Judge(processor, counted)

        def inputs_of(rows: Sequence[Any]) -> dict[str, Any]:
            return {k: v.to(model.device) for k, v in asked[0].task.collate(processor, rows).items()}

        def answer_all(value: float, tick: bench.Tick) -> tuple[list[list[int]], float]:
            options = {**GREEDY, "exit_threshold": value}
            found = generate_rows(model, [a.row for a in counted], inputs_of, options, tick=tick)
            return found.tokens, found.mean_depth

        measured = measure(
            base,
            model,
            [inputs_of([a.row]) for a in asked],
            threshold,
            lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            judge.scores,
            answer_all,
            bars,
            uncounted=len(asked) - len(counted),
            timed=show.TIMED,
            thresholds=show.THRESHOLDS,
        )
    examples = example_rows(asked, measured, judge, tokenizer)
    common = common_results(measured, examples, model, folder, source, note, sample.settings)
    page = Page({**sample.about, "end_token": tokenizer.eos_token, **common})
    show.complete(page, sample, measured, judge, processor)
    return page


def measure(
    base: Any,
    model: Any,
    inputs: Sequence[bench.Inputs],
    threshold: Any,
    decode: bench.Decode,
    score: Callable[[Sequence[Any]], dict[str, Any]],
    answer_all: Callable[[float, bench.Tick], tuple[Sequence[Any], float]],
    bars: Progress,
    *,
    uncounted: int = 0,
    timed: int,
    thresholds: Sequence[float] = bench.THRESHOLDS,
) -> Measured:
    """All runs.

    Args:
        base, model, inputs, threshold, decode: as for `bench.compare`.
        score: tokens for the counted inputs to `{"score", …}`.
        answer_all: counted inputs in batches at a threshold to tokens and mean depth.
        bars: told how far this has come.
        uncounted: so many of the inputs, the first, are the user's own.
        timed: the curve is timed on so many of the others, the first.
        thresholds: of the curve, the one in use apart; a threshold per exit gets no curve.
    """
    machine, n = timing.machine(), len(inputs) - uncounted
    others: list[float] = sorted({*thresholds, threshold}) if isinstance(threshold, (int, float)) else []
    subset = inputs[uncounted:][:timed]
    with bars.bar("full depth and early exit", total=2 * len(inputs)) as bar:
        both = bench.compare(base, model, inputs, threshold, decode, tick=bar.advance, **GREEDY)
    full = bench.Runs(None, both.full.runs[uncounted:])
    deed = bench.Runs(threshold, both.deed.runs[uncounted:])
    full_score, deed_score = (score([run.tokens for run in subject.runs]) for subject in (full, deed))
    points, curve_base = [], full
    if others:
        total = (1 + len(others)) * len(subset) + len(others) * n
        with bars.bar("other thresholds", total) as bar:
            curve_base, subjects = bench.latency_curve(base, model, subset, others, decode, tick=bar.advance, **GREEDY)
            for subject in subjects:
                # Timed on some inputs, scored on all of them: some alone would tell scores apart too coarsely.
                predictions, depth = answer_all(subject.threshold, bar.advance)  # type: ignore[arg-type]
                point = {"threshold": subject.threshold, "score": score(predictions)["score"], **subject.summary()}
                points.append({**point, "mean_depth": depth})
    curve = {
        "timed_inputs": len(subset),
        "scored_inputs": n,
        "full_depth": {**curve_base.summary(), "score": full_score["score"]},
        "points": points,
    }
    return Measured(both, full, deed, full_score, deed_score, curve, machine)
