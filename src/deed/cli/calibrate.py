"""`deed calibrate`: choose the exit threshold on held-out data, with a bound on what it costs; saved with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: deed calibrate runs/g2p/model --risk 0.01 --confidence 0.95"


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved deed model; its config.json is updated.")],
    task: Annotated[str, typer.Option(help="Whose calibration split: g2p.")] = "g2p",
    risk: Annotated[float, typer.Option(help="Allowed drop of the score against full depth.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Confidence of the bound.")] = 0.95,
    count: Annotated[int | None, typer.Option(min=1, help="Use only so many examples.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    from rich.console import Console

    from ..saving import save_deed_config
    from ..tasks.g2p_run import calibrate_g2p, load

    if task != "g2p":
        raise ValueError(f"--task must be g2p, got {task!r}")
    loaded, tokenizer = load(model)
    console = Console(stderr=True)
    with console.status("generating at full depth …") as status:

        def progress(line: str) -> None:
            status.update(line)
            if not as_json:
                console.print(line, highlight=False)

        report = calibrate_g2p(loaded, tokenizer, risk, confidence, count, progress)
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
