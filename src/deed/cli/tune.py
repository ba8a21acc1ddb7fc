"""`deed tune`: early exit for a trained model, without touching it: only the exits learn, from the last layer's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deed.utils.saved_model import read_saved_model

from .options import Json, SkipMissing
from .train import report

EXAMPLE = "Example: deed tune runs/g2p_conv/model --output runs/tuned --steps 1000"


def tune(
    base: Annotated[Path, typer.Argument(help="Folder of a trained model, plain or deed; it stays as it is.")],
    output: Annotated[Path, typer.Option(help="Run folder: checkpoints, log, and the finished model in model/.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Whose training data, also several: g2p, pages, scenes, docvqa, refcoco … or your own."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder or file, where it is on disk.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per step and process.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    adapter: Annotated[str, typer.Option(help="residual_linear, linear, bottleneck or layer.")] = "residual_linear",
    bf16: Annotated[bool, typer.Option(help="bfloat16 autocast.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    eval_count: Annotated[
        int, typer.Option(min=0, help="Held-out examples of each task scored at the end, once the model is saved.")
    ] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training examples.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many, with a checkpoint; the same command goes on.")
    ] = None,
    skip_missing: SkipMissing = False,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        base, output, task, data: what is tuned, where to, and by which examples.
        steps, batch_size, learning_rate, adapter, bf16, seed, save_every, eval_count, skip_missing: of `FineTuneRecipe`.
        limit, minutes: of `fine_tune`.
        as_json: print the result as JSON.
    """
    read_saved_model(base)  # before PyTorch is imported, which takes a second
    from deed.recipes.fine_tune import FineTuneRecipe, fine_tune

    recipe = FineTuneRecipe(
        start=str(base),
        task=task or [],
        data=None if data is None else str(data),
        frozen=True,
        loss="distill",
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=min(100, steps // 10),
        weight_decay=0.05,
        adapter=adapter,
        bf16=bf16,
        seed=seed,
        save_every=save_every,
        eval_count=eval_count,
        skip_missing=skip_missing,
    )
    report(output, as_json, lambda: fine_tune(output, recipe, limit, minutes))


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(tune)
