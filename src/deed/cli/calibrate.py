"""`deed calibrate`: choose the exit threshold on held-out data, with a bound on what it costs; saved with the model.

With --answers: find out how likely answers are to be right, and below which confidence the model is not sure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.calibration.risk import check_bounds
from deed.utils.saved_model import read_saved_model

from .calibrate_answers import RISK as ANSWER_RISK
from .calibrate_answers import calibrate_answers
from .options import Count, Data, HeldOutSplit, Json, SkipMissing
from .shared import whisper_or_folder

EXAMPLE = "Example: deed calibrate runs/g2p/model --risk 0.01 --confidence 0.95; then deed calibrate runs/g2p/model --answers"
RISK = 0.01  # where none is given


def calibrate(
    model: Annotated[
        Path,
        typer.Argument(
            help="Folder of a saved deed model, whose config.json is updated; with --exits a plain one, or base (Whisper)."
        ),
    ],
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
    exits: Annotated[
        Path | None,
        typer.Option(
            help="Folder with exits alone (model.save_exits) for a plain MODEL; its deed_exits.json is updated in place of "
            "the model's config.json.",
            show_default="the model's own",
        ),
    ] = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Calibrate the confidence of answers, at the model's threshold, in place of the threshold.",
        ),
    ] = False,
    risk: Annotated[
        float | None,
        typer.Option(
            help="Allowed drop of the score against full depth; of captions' CIDEr-D divided by 10. With --answers: allowed "
            "share of wrong answers among those that are sure.",
            show_default=f"{RISK}; {ANSWER_RISK} with --answers",
        ),
    ] = None,
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
        exits: calibrated with the model, and updated in its place.
        answers: calibrate the confidence of answers.
        risk, confidence, threshold: as for `deed.calibrate`.
        skip_missing: leave out examples whose picture is missing.
        as_json: print the report as JSON.
    """
    bound = (ANSWER_RISK if answers else RISK) if risk is None else risk
    check_bounds(bound, confidence)
    if answers and threshold:
        raise ValueError("--answers is calibrated at the model's own threshold; leave --threshold out")
    if answers and exits:
        raise ValueError(
            "--answers needs a model that was saved with its exits (model.save_pretrained); leave --exits out"
        )
    model = whisper_or_folder(model)
    has_exits = read_saved_model(model).has_exits  # before PyTorch is imported, which takes a second
    if not (has_exits or exits):
        raise ValueError(
            f"{model} has no exits of its own to calibrate; give those that were saved alone by --exits FOLDER, or train some "
            "with deed tune"
        )
    from deed.calibration.learn_then_test import GRID
    from deed.modeling.exits_folder import ABOUT_FILE, read_about, save_exits_config
    from deed.modeling.saving import save_deed_config
    from deed.tasks.answering import calibrate_task
    from deed.tasks.loading import load_saved
    from deed.tasks.task import tasks_of
    from deed.utils.progress import RichProgress

    from .shared import counted, quiet_libraries

    tasks = tasks_of(model, task, split)
    if exits:
        read_about(exits)
    quiet_libraries()
    for each in tasks:
        each.skip_missing = skip_missing
    if answers:
        calibrate_answers(model, tasks, data, split, bound, confidence, count, as_json)
        return
    with RichProgress(quiet=as_json) as bars, bars.bar("reading") as bar:
        # Printed with the first result, so that an error is all there is to read where there is none.
        explanation = [
            f"p: how likely so small a drop would be by chance if early exit cost more than {bound:g}; a threshold passes "
            f"with p at most {1 - confidence:g}"
        ]

        def progress(line: str) -> None:
            bar.update("calibrating")
            for each in (*explanation, line):
                bars.note(each)
            explanation.clear()

        loaded, processor = load_saved(model, exits=exits) if exits else tasks[0].load(model)
        reports = []
        for each in tasks:
            bar.update(f"{each.name}: reading")
            found = each.examples(split or each.calibration_split, count, data)
            examples = counted(found, lambda n: bar.update(f"{n} read"))
            report = calibrate_task(each, loaded, processor, examples, bound, confidence, threshold or GRID, progress)
            reports.append({**report, "task": each.name})
        report = strictest(reports)
        loaded.deed_config.threshold, loaded.deed_config.calibration = report["threshold"], report
    place = exits / ABOUT_FILE if exits else model / "config.json"
    if exits:
        save_exits_config(loaded, exits)
    else:
        save_deed_config(loaded, model)
    if as_json:
        typer.echo(json.dumps(report))
        return
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
