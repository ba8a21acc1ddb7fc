"""`deed calibrate --answers`: how likely the model's answers are to be right, and below which confidence it is not sure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

RISK = 0.1  # where none is given


def calibrate_answers(
    model: Path,
    tasks: Sequence[Any],
    data: Path | None,
    split: str | None,
    risk: float,
    confidence: float,
    count: int | None,
    as_json: bool,
) -> None:
    """Fit, certify and save; prints what was found.

    Args:
        model: the folder; its configuration gets the result.
        tasks: on whose held-out examples; each is a part of the data, with a promise of its own where it can be kept.
        data: of the tasks that read data on disk.
        split: of every task; None: each one's own for calibration.
        risk: allowed share of wrong answers among the sure ones.
        confidence: of the promise.
        count: of examples of each task.
        as_json: print the report as JSON.

    Raises:
        CalibrationError: too few examples.
        DataError: examples that cannot be had.
    """
    from deed.modeling.answer_confidence import NEVER_SURE
    from deed.modeling.saving import save_deed_config
    from deed.tasks.confidence import calibrate_task_answers
    from deed.utils.progress import RichProgress

    from .shared import counted

    with RichProgress(quiet=as_json) as bars, bars.bar("reading") as bar:
        loaded, processor = tasks[0].load(model)
        found = [
            counted(
                each.examples(
                    split or each.calibration_split, count, data if each.reads_data or len(tasks) == 1 else None
                ),
                lambda n, name=each.name: bar.update(f"{name}: {n} read"),  # type: ignore[misc]
            )
            for each in tasks
        ]
        report = calibrate_task_answers(
            tasks,
            loaded,
            processor,
            found,
            risk,
            confidence,
            progress=bars.note,
            tick=lambda n: bar.update("answering"),
        )
    save_deed_config(loaded, model)
    if as_json:
        typer.echo(json.dumps(report))
        return
    if report["abstain_below"] >= NEVER_SURE:
        said = f"never sure: no confidence keeps the promise that at most {risk:.0%} of the sure answers are wrong"
    else:
        said = f"sure from a confidence of {report['abstain_below']:g} on: at most {risk:.0%} of the sure answers are wrong"
    typer.echo(f"{said} (at {confidence:.0%} confidence, on examples like these); saved in {model / 'config.json'}")
