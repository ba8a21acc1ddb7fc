"""`deed calibrate`: choose the exit threshold on held-out data, with a bound on what it costs; saved with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: deed calibrate runs/g2p/model --risk 0.01 --confidence 0.95"


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved deed model; its config.json is updated.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose held-out data: g2p, pages, easyvqa, docvqa …; given twice, the stricter threshold is kept.",
            show_default="g2p, or for a LaTr++ pages",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a data set on disk.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split.", show_default="calibration, or for data on disk val")
    ] = None,
    risk: Annotated[float, typer.Option(help="Allowed drop of the score against full depth.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Confidence of the bound.")] = 0.95,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Thresholds to test, from strict to loose.", show_default="eighteen from 0.9999 to 0.3"),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Use only so many examples.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    from rich.console import Console

    from ..calibrate import GRID
    from ..saving import save_deed_config
    from ..tasks import document_run, g2p_run
    from ..tasks.held_out import check_tasks, examples_of

    tasks, grid = check_tasks(task, model), threshold or GRID
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
            loaded, processor = document_run.load(model)
            reports = []
            for name in tasks:
                progress(f"{name}: reading")
                metric, examples = examples_of(
                    name, data, split, "calibration", count, lambda i: status.update(f"{i} read")
                )
                found = document_run.calibrate_examples(
                    loaded, processor, examples, metric, risk, confidence, progress, grid
                )
                reports.append({**found, "task": name, "metric": metric})
            # Each threshold keeps its task's promise, and so does any stricter one that was accepted for it before.
            report = max(reports, key=lambda r: r["threshold"])
            report = {**report, "others": [r for r in reports if r is not report]} if len(reports) > 1 else report
            loaded.deed_config.threshold, loaded.deed_config.calibration = report["threshold"], report
    save_deed_config(loaded, model)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        typer.echo(
            f"threshold {report['threshold']:g}: score {report['score']:.4f} (full depth {report['full_depth_score']:.4f}), "
            f"mean depth {report['mean_depth']:.2f}; saved in {model / 'config.json'}"
        )


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(calibrate)
