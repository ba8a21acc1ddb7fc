"""`deed train`: train a task's model with deep supervision; continues where a killed run stopped.

--task g2p (words to pronunciations, CMUdict), --task pages (questions about generated documents and easy-vqa), --task
paperwork (about real PDFs, forms, generated documents and easy-vqa, several questions to a page) and --task scenes
(referring expressions, captions and questions about generated pictures, and easy-vqa) train a small model from scratch.
--task docvqa, textvqa, stvqa, ocrvqa, easyvqa or vqav2 fine-tunes a LaTr++ made of a T5 (--base) and a ViT (--vit) on the
data set in --data; --objective denoise is layout-aware pre-training on its pages. --task refcoco, coco_captions, vqav2,
snli_ve, easyvqa or ofa_tsv_… fine-tunes a saved OFA (--from). What is not given is the task's own recipe, whose options are
listed below (deed train --task NAME --help).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

EXAMPLE = "Example: deed train --task docvqa --data DocVQA --base t5-base --vit vit-base --output runs/docvqa"
# Tasks with a module `deed.recipes.NAME` of their own, in which `train_NAME` follows the recipe named.
FROM_SCRATCH = {"g2p": "G2pRecipe", "pages": "PagesRecipe", "scenes": "ScenesRecipe", "paperwork": "PaperworkRecipe"}


class TrainCommand(TyperCommand):
    """`deed train`, whose help goes on with the options of the task's recipe."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's help, then the recipe's."""
        super().format_help(ctx, formatter)
        task = ctx.params.get("task") or "g2p"
        for kind, _ in recipes_of(task):
            options = parser_of(kind).format_help().partition("options:")[2]
            typer.echo(f"Options of --task {task} ({kind.__name__}):{options}")


def train(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="Run folder: checkpoints, log, and the finished model in model/.")],
    task: Annotated[
        str | None,
        typer.Option(is_eager=True, help="g2p, pages, paperwork, scenes, docvqa … (see above). [default: g2p]"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder; for g2p a dictionary file instead of the packaged one.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recorded recipe.json to train by; other options change it.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training examples.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many, with a checkpoint; the same command goes on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        ctx: with the recipe's options, unparsed.
        output, task, data, recipe, limit, minutes, as_json: see their help.
    """
    report(output, as_json, lambda: run(output, task, ctx.args, data, recipe, limit, minutes))


def report(output: Path, as_json: bool, work: Callable[[], dict[str, Any]]) -> None:
    """Train, and say what came of it.

    Args:
        output: run folder.
        as_json: print the result, and nothing else, on standard output.
        work: trains and gives `run_recipe`'s result.
    """
    from deed.utils.files import read_json

    with contextlib.redirect_stdout(sys.stderr):  # Trainer's log
        result = work()
    if as_json:
        typer.echo(json.dumps(result))
        return
    found = result["validation"]
    parts = {f"{task} ": scores for task, scores in found.items() if isinstance(scores, dict) and task != "by_kind"}
    said = "".join(
        f", {part}{name.replace('_', ' ')} {value:.4f}"
        for part, scores in ({"": found} | parts).items()
        for name, value in scores.items()
        if isinstance(value, float)
    )
    for scores in ({"": found} | parts).values():
        if "not_scored" in scores:
            typer.echo(scores["not_scored"], err=True)
    recipe, place = read_json(output / "recipe.json"), output / "model"
    tasks = [recipe["task"]] if isinstance(recipe["task"], str) else recipe["task"]
    tasks = [name for name in tasks if name not in FROM_SCRATCH]
    held_out = "".join(f" --task {name}" for name in tasks) + (
        f" --data {recipe['data']}" if recipe.get("data") else ""
    )
    then = f"deed calibrate {place}{held_out}"
    if result["steps"] < recipe["steps"]:
        then = f"the same command goes on to step {recipe['steps']}"
    typer.echo(f"{result['steps']} steps{said}; model in {place}; next: {then}")


def run(
    output: Path,
    task: str | None,
    options: list[str],
    data: Path | None = None,
    recorded: Path | None = None,
    limit: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train by a task's recipe, changed by the options given.

    Args:
        output: run folder.
        task: a name that `--task` takes; None: the recorded recipe's, or g2p.
        options: of the recipe, as on the command line.
        data: the data set's folder or file.
        recorded: a `recipe.json` to begin with.
        limit: use only so many training examples.
        minutes: stop after so many.

    Raises:
        ValueError: an unknown task, an option that it does not take, one that it needs.
    """
    from deed.utils.files import read_json

    values = read_json(recorded, ValueError) if recorded else {}
    values |= {} if task is None else {"task": task}
    values |= {} if data is None else {"data": str(data)}
    # A recipe of several tasks, or with its backbone frozen, is of `deed tune`, whatever the task.
    named = values.get("task", "g2p") if isinstance(values.get("task", ""), str) and not values.get("frozen") else ""
    kinds = recipes_of(named)
    # A data set that both models can do: --from names an OFA, --base a T5.
    onward = values.get("start") or any(word.partition("=")[0] == "--from" for word in options)
    kind, follow = kinds[-1 if onward else 0]
    recipe = recipe_of(kind, named, options, values, recorded)
    return follow(output, recipe, limit=limit, minutes=minutes)


def recipes_of(task: str) -> list[tuple[Any, Callable[..., dict[str, Any]]]]:
    """The recipes that a task can be trained by, each with the function that follows it; of several tasks (no name) that of
    `deed tune`.

    Raises:
        ValueError: an unknown task.
    """
    from deed.data.registry import READERS
    from deed.recipes.fine_tune import FineTuneRecipe, fine_tune
    from deed.tasks.task import get_task

    if task in FROM_SCRATCH:
        module = importlib.import_module(f"deed.recipes.{task}")
        return [(getattr(module, FROM_SCRATCH[task]), getattr(module, f"train_{task}"))]
    if task not in READERS:
        if task:
            get_task(task)  # or it says which tasks there are
        return [(FineTuneRecipe, fine_tune)]
    from deed.recipes.documents import DocumentRecipe, train_documents

    models = READERS[task].models
    both: dict[str, tuple[Any, Any]] = {
        "latr": (DocumentRecipe, train_documents),
        "ofa": (FineTuneRecipe, fine_tune),
    }
    return [both[name] for name in both if name in models]


def parser_of(kind: Any) -> argparse.ArgumentParser:
    """A parser of a recipe's fields, with help from the `Args` of its docstrings."""
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> Any:
            raise ValueError(message)

    parser = Parser(kind, allow_abbrev=False, add_help=False)
    known = {
        name: " ".join(text.split())
        for base in reversed(kind.__mro__)
        for name, text in re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", inspect.getdoc(base) or "", re.M | re.S)
    }
    for action in parser._actions:
        action.required = False
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        action.help = action.help or known.get(action.dest, "").replace("%", "%%")
    return parser


def recipe_of(kind: Any, task: str, options: list[str], values: dict[str, Any], recorded: Path | None = None) -> Any:
    """The recipe with recorded values, changed by options.

    Args:
        kind: the recipe's class.
        task: what messages call it.
        options: as on the command line.
        values: by field.
        recorded: the file that they are from.

    Raises:
        ValueError: an option that the recipe does not have, one that it needs, a value of the wrong type or out of range.
    """
    from deed.recipes.recipe import checked

    parser = parser_of(kind)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given, rest = parser.parse_known_args(options)
    if rest:
        raise ValueError(f"--task {task} takes no {rest[0].partition('=')[0]}")
    values = {**values, **vars(given)}
    for name, why in kind.start_needs.items():
        if not values.get(name):
            other = ", or an OFA: --from" if len(recipes_of(task)) > 1 else ""
            raise ValueError(f"--task {task} {why}{other}")
    return checked(kind, values, f"--recipe {recorded}" if recorded else f"--task {task}")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(cls=TrainCommand, epilog=EXAMPLE, help=__doc__, context_settings=settings)(train)
