"""What `deed demo` tells of a sample that was measured: scores, a row of the report per answer, and the headline numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deed.bench import compare as bench
from deed.constants import NEVER_EXIT
from deed.report import text_pieces
from deed.utils import timing

from .shared import busy_note

# Fewer than bench.THRESHOLDS, where an answer takes long at full depth.
FEW_THRESHOLDS = (0.7, 0.9, 0.95, 0.99, 0.999, NEVER_EXIT)


@dataclass
class Question:
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

    def __init__(self, processor: Any, asked: Sequence[Question]) -> None:
        self.processor, self.asked = processor, asked
        self.tasks = {a.name: a.task for a in asked}
        self.scorers = {
            name: task.calibration_score(processor, [a.example for a in asked if a.name == name])
            for name, task in self.tasks.items()
        }

    def judged(self, a: Question, tokens: Sequence[int]) -> tuple[float, bool]:
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
        "command": timing.command_line(),
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def example_rows(asked: Sequence[Question], measured: Measured, judge: Judge, tokenizer: Any) -> list[dict[str, Any]]:
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
