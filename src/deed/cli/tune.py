"""`deed tune`: early exit for a trained model, without touching it: only the exits learn, from the last layer's answers.

With --recipe it goes by what does not change: the model's own answers to a pool of examples, its states and its likeliest
tokens are computed once and kept on disk. Then exits are trained from them for so many hours and evaluated all along; the best
are saved, with thresholds chosen on held-out examples and a report. frozen trains the exits alone, lora and decoder also the
decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deed.utils.saved_model import read_saved_model

from .options import Json, SkipMissing
from .shared import whisper_or_folder
from .train import report

EXAMPLE = "Example: deed tune runs/g2p_conv/model --output runs/tuned --recipe frozen --exits 1 --hours 0.5"
PLAIN_ONLY = ("save_every", "eval_count", "limit", "minutes")
RECIPE_ONLY = (
    "hours exits adapter_shared pool train_on own_share label_share dropout average warmup held_out "
    "free_running budget evaluations cache draft_head cache_gb max_new_tokens decoder_rate last_weight rank keep_adapter"
).split()


def tune(
    base: Annotated[
        Path, typer.Argument(help="Folder of a trained model, plain or deed, or base (Whisper); it stays as it is.")
    ],
    output: Annotated[Path, typer.Option(help="Run folder: checkpoints, log, and the finished model in model/.")],
    where: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="The data set's folder or file, where it is on disk.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Whose training data, also several: g2p, pages, scenes, docvqa, refcoco … or your own."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The same as DATA.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="frozen, lora or decoder: train from cached states, on the clock.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps.", show_default="1000; with --hours no limit")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples per step and process.", show_default="32, or 8 by a recipe")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="2e-3, or the recipe's")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.", show_default="0.05, or 0.01")] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="residual_linear, linear, bottleneck or layer.", show_default="residual_linear; layer by a recipe"
        ),
    ] = None,
    bf16: Annotated[bool, typer.Option(help="bfloat16 autocast.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between checkpoints.", show_default="250")
    ] = None,
    eval_count: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Held-out examples of each task scored at the end, once the model is saved.",
            show_default="64",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training examples.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many, with a checkpoint; the same command goes on.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="By a recipe: active hours of training, over all continuations.")
    ] = None,
    exits: Annotated[
        str | None, typer.Option(help="By a recipe: layers to leave after, as 1 or 1,2.", show_default="1")
    ] = None,
    adapter_shared: Annotated[
        bool | None,
        typer.Option(
            "--shared/--own", help="By a recipe: exits share one layer, or each has its own.", show_default="own"
        ),
    ] = None,
    pool: Annotated[
        int | None, typer.Option(min=1, help="By a recipe: training examples, drawn once.", show_default="2000")
    ] = None,
    train_on: Annotated[
        str | None,
        typer.Option(help="By a recipe: the model's own answers, labels, or both.", show_default="both"),
    ] = None,
    own_share: Annotated[
        float | None,
        typer.Option(help="By a recipe: share of labelled examples that the model also answers.", show_default="1"),
    ] = None,
    label_share: Annotated[
        float | None,
        typer.Option(help="By a recipe: share of the tokens' cross-entropy in the loss.", show_default="0"),
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="By a recipe: in the exits' layers.", show_default="0")] = None,
    average: Annotated[
        float | None,
        typer.Option(help="By a recipe: decay of a moving average of the weights.", show_default="0, none"),
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="By a recipe: share of the run.", show_default="0.1")] = None,
    decoder_rate: Annotated[
        float | None, typer.Option(help="By lora and decoder: learning rate there.", show_default="3e-4 and 3e-5")
    ] = None,
    last_weight: Annotated[
        float | None,
        typer.Option(help="By lora and decoder: weight of the last layer's own divergence.", show_default="1"),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="By lora: its rank.", show_default="16")] = None,
    keep_adapter: Annotated[
        bool | None,
        typer.Option("--keep-adapter/--merge", help="By lora: save it apart, or merged.", show_default="merged"),
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(min=4, help="By a recipe: examples held out.", show_default="200")
    ] = None,
    free_running: Annotated[
        int | None,
        typer.Option(min=0, help="By a recipe: of these, how many are answered freely.", show_default="100"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="By a recipe: share of tokens that may change at the threshold.", show_default="0.02"),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="By a recipe: along the run.", show_default="20")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="By a recipe: longest answer.", show_default="the task's")
    ] = None,
    draft_head: Annotated[
        str | None,
        typer.Option(help="By a recipe: fit a draft head to the exits, RANK,REFINED or TOKENS.", show_default="none"),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="By a recipe: folder of what is computed once.", show_default="the user's cache"),
    ] = None,
    cache_gb: Annotated[float | None, typer.Option(help="By a recipe: its largest size.", show_default="8")] = None,
    skip_missing: SkipMissing = False,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        base, output, task, data: what is tuned, where to, and by which examples.
        where: as `data`.
        recipe: of `TuneRecipe.method`; None: `FineTuneRecipe`.
        steps, batch_size, learning_rate, weight_decay, adapter, bf16, seed: of both.
        save_every, eval_count, skip_missing: of `FineTuneRecipe`.
        limit, minutes: of `fine_tune`.
        hours, exits, adapter_shared, pool, train_on, own_share, label_share, dropout, average, warmup,
        last_weight, rank: of `TuneRecipe`.
        decoder_rate, draft_head, keep_adapter, held_out, free_running, budget, evaluations: likewise.
        max_new_tokens, cache, cache_gb: likewise.
        as_json: print the result as JSON.
    """
    given = dict(locals())
    base = whisper_or_folder(base)
    read_saved_model(base)  # before PyTorch is imported, which takes a second
    if where is not None and data is not None:
        raise ValueError("DATA and --data say the same: give one of them")
    data = where or data
    for names, with_recipe in ((PLAIN_ONLY, False), (RECIPE_ONLY, True)):
        wrong = [name for name in names if given[name] is not None and with_recipe != (recipe is not None)]
        if wrong:
            option = "--" + wrong[0].replace("_", "-")
            raise ValueError(f"{option} goes {'without' if recipe else 'with'} --recipe")
    common = {
        "start": str(base),
        "data": None if data is None else str(data),
        "bf16": bf16,
        "seed": seed,
        **_given(given, ("steps", "batch_size", "learning_rate", "weight_decay", "adapter")),
    }
    if recipe is not None:
        by_recipe(output, recipe, task or [], common | _given(given, RECIPE_ONLY), as_json)
        return
    from deed.recipes.fine_tune import FineTuneRecipe, fine_tune

    steps = steps or 1000
    defaults: dict[str, Any] = {
        "steps": steps,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "weight_decay": 0.05,
        "adapter": "residual_linear",
        "save_every": 250,
        "eval_count": 64,
    }
    fine = FineTuneRecipe(
        **{
            **defaults,
            **common,
            **_given(given, ("save_every", "eval_count")),
            "task": task or [],
            "frozen": True,
            "loss": "distill",
            "warmup_steps": min(100, steps // 10),
            "skip_missing": skip_missing,
        }
    )
    report(output, as_json, lambda: fine_tune(output, fine, limit, minutes))


def _given(values: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: values[name] for name in names if values[name] is not None}


def by_recipe(output: Path, method: str, tasks: list[str], values: dict[str, Any], as_json: bool) -> None:
    """Tune by `TuneRecipe`, and say what came of it.

    Args:
        output: run folder.
        method: of the recipe.
        tasks: at most one name.
        values: of its other fields, and `cache`.
        as_json: print the result as JSON.

    Raises:
        ValueError: several tasks, or a bad field.
    """
    import contextlib
    import json
    import sys

    from deed.recipes.recipe import checked
    from deed.recipes.tune import tune_with
    from deed.recipes.tune_recipe import TuneRecipe
    from deed.tasks.task import task_for
    from deed.utils.quiet import quiet

    if len(tasks) > 1:
        raise ValueError("--recipe takes one --task")
    cache = values.pop("cache", None)
    if "exits" in values:
        words = str(values["exits"]).split(",")
        if not all(word.strip().isdigit() for word in words):
            raise ValueError(f"--exits must be layers, as 1 or 1,2, got {values['exits']!r}")
        values["exits"] = [int(word) for word in words]
    if "draft_head" in values:
        values["draft_head"] = draft_head_of(str(values["draft_head"]))
    name = tasks[0] if tasks else task_for(Path(values["start"])).name
    recipe = checked(TuneRecipe, {**values, "method": method, "task": name}, "deed tune")
    with contextlib.redirect_stdout(sys.stderr), quiet():
        result = tune_with(output, recipe, cache)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo((output / "report.md").read_text(encoding="utf-8"))
    typer.echo(f"{result['steps']} steps; model in {output / 'model'}, report in {output / 'report.md'}")


def draft_head_of(text: str) -> dict[str, int]:
    """`32,64`: rank and refined tokens; `4096`: a shortlist of so many.

    Raises:
        ValueError: anything else.
    """
    words = text.split(",")
    if not all(word.strip().isdigit() for word in words) or len(words) > 2:
        raise ValueError(f"--draft-head must be RANK,REFINED as in 32,32, or a number of TOKENS, got {text!r}")
    numbers = [int(word) for word in words]
    return {"tokens": numbers[0]} if len(numbers) == 1 else {"rank": numbers[0], "refine": numbers[1]}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(tune)
