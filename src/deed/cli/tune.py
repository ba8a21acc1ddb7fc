"""`deed tune`: early exit for a trained model, without touching it: only the adaptation modules learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: deed tune runs/g2p_conv/model --output runs/tuned --steps 1000"


def tune(
    base: Annotated[Path, typer.Argument(help="Folder of a trained model, plain or deed; it stays as it is.")],
    output: Annotated[Path, typer.Option(help="Run folder: checkpoints, log, and the finished model in model/.")],
    task: Annotated[str, typer.Option(help="Whose training data: g2p (CMUdict).")] = "g2p",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs per step and process.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    adapter: Annotated[str, typer.Option(help="residual_linear, linear or bottleneck.")] = "residual_linear",
    bf16: Annotated[bool, typer.Option(help="bfloat16 autocast.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    data: Annotated[Path | None, typer.Option(help="A dictionary file instead of the packaged CMUdict.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training words.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    from deed.recipes.g2p import G2pRecipe, train_g2p

    if task != "g2p":
        raise ValueError(f"--task must be g2p, got {task!r}")
    if not (base / "config.json").is_file():
        raise ValueError(f"{base} is not a folder with a saved model")
    recipe = G2pRecipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=min(100, steps // 10),
        dropout=0.0,
        adapter=adapter,
        base=str(base),
        bf16=bf16,
        seed=seed,
        save_every=save_every,
    )
    result = train_g2p(output, recipe, data, limit)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(f"{result['steps']} steps; model in {output / 'model'}; next: deed calibrate {output / 'model'}")


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(tune)
