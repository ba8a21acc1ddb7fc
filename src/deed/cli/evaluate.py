"""`deed evaluate`: score and mean depth of a saved model, at full depth and at its threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: deed evaluate runs/g2p/model --split test"


def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved deed model.")],
    task: Annotated[str, typer.Option(help="What to score on: g2p.")] = "g2p",
    split: Annotated[str, typer.Option(help="validation, calibration or test.")] = "test",
    threshold: Annotated[list[float] | None, typer.Option(help="Thresholds; default: the model's own.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Use only so many examples.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    from rich.console import Console
    from rich.progress import track

    from ..tasks import g2p
    from ..tasks.g2p_run import answer, load

    if task != "g2p":
        raise ValueError(f"--task must be g2p, got {task!r}")
    rows = g2p.load_split(split)[:count]
    loaded, tokenizer = load(model)
    words, references = [w for w, _ in rows], [a for _, a in rows]
    thresholds = [2.0, *(threshold or [loaded.deed_config.threshold])]
    results = []
    for value in track(thresholds, "evaluating", console=Console(stderr=True), disable=as_json):
        predictions, depth = answer(loaded, tokenizer, words, value)
        results.append({"threshold": value, "mean_depth": depth, **g2p.score(predictions, references)})
    if as_json:
        typer.echo(json.dumps({"split": split, "words": len(words), "results": results}))
        return
    for row in results:
        name = "full depth" if row["threshold"] == 2.0 else f"threshold {row['threshold']}"
        typer.echo(
            f"{name}: word accuracy {row['word_accuracy']:.4f}, phoneme error rate {row['phoneme_error_rate']:.4f}, "
            f"mean depth {row['mean_depth']:.2f} ({len(words)} words)"
        )


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(evaluate)
