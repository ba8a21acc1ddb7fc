"""`deed calibrate`: choose the exit threshold on held-out data, with a bound on what it costs; saved with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.calibration.risk import check_bounds
from deed.utils.saved_model import read_saved_model

from .options import Count, Data, HeldOutSplit, Json, SkipMissing

EXAMPLE = "Example: deed calibrate runs/g2p/model --risk 0.01 --confidence 0.95"


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved deed model; its config.json is updated.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose held-out data: g2p, pages, easyvqa, docvqa …; for an OFA scenes (each of its parts), scenes-refer, "
            "refcoco …; of several, the strictest threshold is kept.",
            show_default="g2p, for a LaTr++ pages, for an OFA scenes",
        ),
    ] = None,
    data: Data = None,
    split: HeldOutSplit = None,
    risk: Annotated[
        float, typer.Option(help="Allowed drop of the score against full depth; of captions' CIDEr-D divided by 10.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option(help="Confidence of the bound.")] = 0.95,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Thresholds to test, from strict to loose.", show_default="eighteen from 0.9999 to 0.3"),
    ] = None,
    count: Count = None,
    skip_missing: SkipMissing = False,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        model: the folder; its configuration gets threshold and report.
        task, data, split, count: on which examples.
        risk, confidence, threshold: as for `deed.calibrate`.
        skip_missing: leave out examples whose picture is missing.
        as_json: print the report as JSON.
    """
    check_bounds(risk, confidence)
    read_saved_model(model)  # before PyTorch is imported, which takes a second
    from deed.calibration.learn_then_test import GRID
    from deed.modeling.saving import save_deed_config
    from deed.tasks.answering import calibrate_task
    from deed.tasks.task import tasks_of
    from deed.utils.progress import RichProgress

    from .shared import counted, quiet_libraries

    tasks = tasks_of(model, task, split)
    quiet_libraries()
    with RichProgress(quiet=as_json) as bars, bars.bar("reading") as bar:
        # Printed with the first result, so that an error is all there is to read where there is none.
        explanation = [
            f"p: how likely so small a drop would be by chance if early exit cost more than {risk:g}; a threshold passes "
            f"with p at most {1 - confidence:g}"
        ]

        def progress(line: str) -> None:
            bar.update("calibrating")
            for each in (*explanation, line):
                bars.note(each)
            explanation.clear()

        loaded, processor = tasks[0].load(model)
        reports = []
        for each in tasks:
            bar.update(f"{each.name}: reading")
            each.skip_missing = skip_missing
            found = each.examples(split or each.calibration_split, count, data)
            examples = counted(found, lambda n: bar.update(f"{n} read"))
            report = calibrate_task(each, loaded, processor, examples, risk, confidence, threshold or GRID, progress)
            reports.append({**report, "task": each.name})
        report = strictest(reports)
        loaded.deed_config.threshold, loaded.deed_config.calibration = report["threshold"], report
    save_deed_config(loaded, model)
    if as_json:
        typer.echo(json.dumps(report))
        return
    place = model / "config.json"
    if "others" not in report:
        typer.echo(f"{sentence(report)}; saved in {place}")
        return
    for each in (report, *report["others"]):
        typer.echo(f"{each['task']}: {sentence(each)}")
    typer.echo(f"threshold {report['threshold']:g}, the strictest, saved in {place}")


def strictest(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of calibrations of one model on several tasks that with the highest threshold, the rest in `others`: each threshold
    keeps its task's promise, and so does any stricter one that was accepted for it before."""
    report = max(reports, key=lambda r: r["threshold"])
    others = [r for r in reports if r is not report]
    return {**report, "others": others} if others else report


def sentence(report: dict[str, Any]) -> str:
    """What was found, in a line."""
    scale = f" ({report['metric']} / {report['divided_by']:g})" if report.get("divided_by", 1) != 1 else ""
    return (
        f"threshold {report['threshold']:g}: score{scale} {report['score']:.4f} (full depth "
        f"{report['full_depth_score']:.4f}), mean depth {report['mean_depth']:.2f}"
    )


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(calibrate)
