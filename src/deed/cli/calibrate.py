"""`deed calibrate`: choose the exit threshold on held-out data, with a bound on what it costs; saved with the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

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
    data: Annotated[Path | None, typer.Option(help="Folder of a data set on disk.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split.", show_default="calibration, or for data on disk val")
    ] = None,
    risk: Annotated[
        float, typer.Option(help="Allowed drop of the score against full depth; of captions' CIDEr-D divided by 10.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option(help="Confidence of the bound.")] = 0.95,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Thresholds to test, from strict to loose.", show_default="eighteen from 0.9999 to 0.3"),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Use only so many examples of each task.", show_default="all; 1000 of scenes"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    from rich.console import Console

    from deed.calibration.learn_then_test import GRID
    from deed.modeling.saving import save_deed_config
    from deed.tasks import g2p_run
    from deed.tasks.held_out import check_tasks, examples_of, strictest

    tasks, grid = check_tasks(task, model, split), threshold or GRID
    console = Console(stderr=True)
    with console.status("reading …") as status:

        def progress(line: str) -> None:
            status.update(line)
            if not as_json:
                console.print(line, highlight=False)

        if tasks == ["g2p"]:
            loaded, tokenizer = g2p_run.load(model)
            report = g2p_run.calibrate_g2p(loaded, tokenizer, risk, confidence, count, progress, grid)
        else:
            loaded, calibrate_on = picture_model(model, tasks, risk, confidence, progress, grid)
            reports = []
            for name in tasks:
                progress(f"{name}: reading")
                metric, examples = examples_of(
                    name, data, split, "calibration", count, lambda i: status.update(f"{i} read")
                )
                reports.append({**calibrate_on(name, metric, examples), "task": name})
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


def picture_model(
    folder: Path,
    tasks: Sequence[str],
    risk: float,
    confidence: float,
    progress: Callable[[str], None],
    grid: Sequence[float],
) -> tuple[Any, Callable[[str, str, Any], dict[str, Any]]]:
    """The saved LaTr++ or OFA, and what calibrates it on a task: `(task, metric, examples)` to a report."""
    from deed.tasks import documents as document_run
    from deed.tasks.held_out import asks_of, is_for_ofa

    if not is_for_ofa(folder, tasks):
        model, processor = document_run.load(folder)

        def on_documents(task: str, metric: str, examples: Any) -> dict[str, Any]:
            found = document_run.calibrate_examples(
                model, processor, examples, metric, risk, confidence, progress, grid
            )
            return {**found, "metric": metric}

        return model, on_documents

    from deed.tasks import picture_scores as ofa_scores
    from deed.tasks import pictures as ofa_run

    model, reader = ofa_run.load(folder)

    def on_pictures(task: str, metric: str, examples: Any) -> dict[str, Any]:
        return ofa_run.calibrate_examples(
            model, reader, asks_of(task), ofa_scores.name_of(metric), examples, risk, confidence, progress, grid
        )

    return model, on_pictures


def sentence(report: dict[str, Any]) -> str:
    """What was found, in a line."""
    scale = f" ({report['metric']} / {report['divided_by']:g})" if report.get("divided_by", 1) != 1 else ""
    return (
        f"threshold {report['threshold']:g}: score{scale} {report['score']:.4f} (full depth "
        f"{report['full_depth_score']:.4f}), mean depth {report['mean_depth']:.2f}"
    )


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(calibrate)
