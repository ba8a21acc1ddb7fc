"""What `deed demo` does whatever the task: a sample is answered by the untouched base class and with early exit in turns,
then at other thresholds; scores, a row of the report per answer, and the part of `report.json` that follows from it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deed.bench import compare as bench
from deed.constants import GREEDY
from deed.modeling.answering import generate_rows
from deed.report import text_pieces
from deed.utils import timing
from deed.utils.progress import Progress, RichProgress

from .shared import busy_note, pick_threshold, quiet_libraries


@dataclass
class Asked:
    """One example of the sample, encoded.

    Attributes:
        task: which it is of.
        example: closed.
        row: the model's inputs for it.
        told: what its row of the report says beside the answer.
        own: the user's, answered and timed with the others, but not counted.
    """

    task: Any
    example: Any
    row: Mapping[str, Any]
    told: dict[str, Any] = field(default_factory=dict)
    own: bool = False

    @property
    def name(self) -> str:
        """What the report calls the task."""
        return self.told.get("task") or self.task.name


@dataclass
class Sample:
    """All that is asked, the user's own first.

    Attributes:
        about: what the report says of the sample: `title`, `task`, `unit`, `score_name`, and what else its kind has.
        settings: shown beside those of model and threshold.
        kept: what `finish` of the demo needs.
    """

    asked: list[Asked]
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


@dataclass
class Measured:
    """Runs on the counted inputs and on all of them, scores and the curve.

    Attributes:
        everything: runs on all inputs, those of the user first.
        full, deed: runs on the counted inputs.
        full_score, deed_score: what `score` gave for each, `"score"` among it.
        curve: score and times by threshold.
        machine: before the run.
    """

    everything: bench.Comparison
    full: bench.Runs
    deed: bench.Runs
    full_score: dict[str, Any]
    deed_score: dict[str, Any]
    curve: dict[str, Any]
    machine: dict[str, Any]


class Judge:
    """Scores generated tokens of the counted part of a sample, each by its own task's metric, alike for every subset."""

    def __init__(self, processor: Any, asked: Sequence[Asked]) -> None:
        self.processor, self.asked = processor, asked
        self.tasks = {a.name: a.task for a in asked}
        self.scorers = {
            name: task.calibration_score(processor, [a.example for a in asked if a.name == name])
            for name, task in self.tasks.items()
        }

    def judged(self, a: Asked, tokens: Sequence[int]) -> tuple[float, bool]:
        """An answer's score by its task's own metric, and whether it is right."""
        value = self.scorers[a.name](list(tokens), {"example": a.example}) * a.task.best
        return value, a.task.right(a.task.answer(self.processor, tokens, a.example), a.example, value)

    def scores(self, tokens: Sequence[Sequence[int]], at: Sequence[int] | None = None) -> dict[str, Any]:
        """Scores of all answers or of a part.

        Args:
            tokens: of every answer.
            at: which of them; None: all.

        Returns:
            `score` (0..1: the mean over tasks of each one's metric divided by its best). Of one task also its further
            scores; of several `tasks` (each one's own metric) and `right` (the share of right answers).
        """
        at = range(len(self.asked)) if at is None else at
        judged = {i: self.judged(self.asked[i], tokens[i]) for i in at}
        means = {}
        for name in self.tasks:
            values = [judged[i][0] for i in at if self.asked[i].name == name]
            if values:
                means[name] = sum(values) / len(values)
        score = {"score": sum(mean / self.tasks[name].best for name, mean in means.items()) / len(means)}
        if len(self.tasks) > 1:
            return {**score, "tasks": means, "right": sum(judged[i][1] for i in at) / len(at)}
        (task,) = self.tasks.values()
        examples = [self.asked[i].example for i in at]
        answers = [task.answer(self.processor, tokens[i], self.asked[i].example) for i in at]
        return {**score, **task.other_scores(answers, examples)}


def run_demo(
    show: Any, folder: Path, count: int, words: Sequence[str], given: float | None, quiet: bool = False
) -> Page:
    """Take a demo's sample, measure it, and tell of it.

    Args:
        show: of which demo: `loaded_by()` (the task that loads the model), `sample(processor, count, words, bars)`,
            `finish(page, sample, measured, judge, processor)`, `TIMED`, `THRESHOLDS`.
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
    show.finish(page, sample, measured, judge, processor)
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
        measured: of `measure`.
        examples: rows of the report, the user's own marked `asked`.
        model, folder: what was measured.
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


def example_rows(asked: Sequence[Asked], measured: Measured, judge: Judge, tokenizer: Any) -> list[dict[str, Any]]:
    """A row of the report per answer; of the user's own, `right` is None where no right answer is known.

    Args:
        asked: in the order of the runs.
        measured: of `measure`.
        judge: scores them.
        tokenizer: tells tokens and pieces.
    """
    runs = {"": measured.everything.deed.runs, "full_depth_": measured.everything.full.runs}
    rows = []
    for i, a in enumerate(asked):
        full, deed = runs["full_depth_"][i], runs[""][i]
        row = {
            **a.told,
            "asked": a.own,
            "expected": list(a.example.answers),
            "answer": deed.prediction,
            "tokens": tokenizer.convert_ids_to_tokens(deed.tokens),
            "pieces": text_pieces(tokenizer, deed.tokens),
            "depths": deed.depths,
            "overall_ms": deed.overall_ms,
            "encoder_ms": deed.encoder_ms,
            "decoder_ms": deed.decoder_ms,
            "full_depth": full.prediction,
            "full_depth_tokens": tokenizer.convert_ids_to_tokens(full.tokens),
            "full_depth_overall_ms": full.overall_ms,
            "full_depth_decoder_ms": full.decoder_ms,
        }
        for key, found in runs.items():
            known = a.example.answers or not a.own
            value, right = judge.judged(a, found[i].tokens) if known else (None, None)
            row |= {f"{key}value": value, f"{key}right": right}
        rows.append(row)
    return rows


def part_results(measured: Measured, judge: Judge, at: Sequence[int], n_layers: int) -> dict[str, Any]:
    """The headline numbers of a part of the counted inputs: scores, times, savings, depths.

    Args:
        measured: of `measure`.
        judge: scores them.
        at: which inputs.
        n_layers: of the decoder.
    """
    full = bench.Runs(None, [measured.full.runs[i] for i in at])
    deed = bench.Runs(measured.deed.threshold, [measured.deed.runs[i] for i in at])
    full_score, deed_score = (
        judge.scores([run.tokens for run in subject.runs], at) for subject in (measured.full, measured.deed)
    )
    saving = bench.Comparison(full, deed).saving()
    return {
        "full_depth": {**full_score, **full.summary()},
        "deed": {**deed_score, **deed.summary()},
        "saving": {"decoder": saving["decoder"], "overall": saving["overall"]},
        "depth_histogram": bench.depth_histogram(deed.runs, n_layers),
    }
