"""`deed train`: train a task's model with deep supervision; continues where a killed run stopped."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLE = "Example: deed train --output runs/g2p --steps 9500"


def train(
    output: Annotated[Path, typer.Option(help="Run folder: checkpoints, log, and the finished model in model/.")],
    task: Annotated[str, typer.Option(help="What to train on: g2p (CMUdict).")] = "g2p",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 9500,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs per step and process.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1.5e-3,
    layers: Annotated[int, typer.Option(min=1, help="Encoder and decoder layers each.")] = 8,
    d_model: Annotated[int, typer.Option(min=32, help="Width, a multiple of 32.")] = 128,
    adapter: Annotated[str, typer.Option(help="residual_linear, linear, bottleneck or none.")] = "residual_linear",
    loss: Annotated[str, typer.Option(help="deed (L_avg + L_N), mean (L_avg) or last (L_N).")] = "deed",
    dropout: Annotated[float, typer.Option(help="Dropout inside the window of steps.")] = 0.1,
    dropout_start: Annotated[int, typer.Option(help="First step with dropout.")] = 4500,
    dropout_stop: Annotated[int, typer.Option(help="First step without again.")] = 6250,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps of rising learning rate.")] = 300,
    start: Annotated[
        Path | None, typer.Option("--from", help="Go on from this saved model, with a fresh optimizer and schedule.")
    ] = None,
    conventional: Annotated[bool, typer.Option(help="Train the plain model, for comparison.")] = False,
    bf16: Annotated[bool, typer.Option(help="bfloat16 autocast.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and dropout.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    data: Annotated[Path | None, typer.Option(help="A dictionary file instead of the packaged CMUdict.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training words.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    from ..train import Recipe, train_g2p

    if task != "g2p":
        raise ValueError(f"--task must be g2p, got {task!r}")
    if d_model % 32:
        raise ValueError(f"--d-model must be a multiple of 32, got {d_model}")
    if start is not None and (conventional or not (start / "config.json").is_file()):
        raise ValueError(f"--from needs the folder of a saved deed model, and no --conventional; got {start}")
    known = {f.name for f in fields(Recipe)}
    given: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k in known}
    result = train_g2p(output, Recipe(**{**given, "n_layers": layers}), data, limit)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        score = result["validation"].get("eval_word_accuracy")
        typer.echo(f"{result['steps']} steps; model in {output / 'model'}; validation word accuracy {score}")


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(train)
