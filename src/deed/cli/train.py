"""`deed train`: train a task's model with deep supervision; continues where a killed run stopped.

--task g2p (words to pronunciations, CMUdict), --task pages (questions about generated documents and easy-vqa) and --task
scenes (referring expressions, captions and questions about generated pictures, and easy-vqa) train a small model from
scratch. --task docvqa, textvqa, stvqa, ocrvqa, easyvqa or vqav2 fine-tunes a LaTr++ made of a T5 (--base) and a
ViT (--vit) on the data set in --data; --objective denoise is layout-aware pre-training on its pages. --task refcoco,
coco_captions, vqav2, snli_ve, easyvqa or ofa_tsv_… fine-tunes a saved OFA (--from). What is not given is the task's own
recipe.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLE = "Example: deed train --task docvqa --data DocVQA --base t5-base --vit vit-base --output runs/docvqa"
# Options that a recipe calls otherwise.
RENAMED = {
    "g2p": {"layers": "n_layers"},
    "pages": {"layers": "decoder_layers"},
    "scenes": {"layers": "decoder_layers"},
}


def train(
    output: Annotated[Path, typer.Option(help="Run folder: checkpoints, log, and the finished model in model/.")],
    task: Annotated[str, typer.Option(help="g2p, pages, scenes, docvqa, refcoco … (see above).")] = "g2p",
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder; for g2p a dictionary file instead of the packaged one.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="T5 checkpoint to start from, or a LaTr++ to go on from.")] = None,
    vit: Annotated[str | None, typer.Option(help="ViT checkpoint; left out: words and boxes only.")] = None,
    train_vit: Annotated[
        bool | None, typer.Option("--train-vit", help="Train the ViT too, not only its projection.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="answer, or denoise (layout-aware pre-training).")] = None,
    ocr: Annotated[str | None, typer.Option(help="rapidocr or tesseract, for data sets that bring no OCR.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recorded recipe.json to train by; other options change it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples per step and process.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(min=0, help="Steps of rising learning rate.")] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="From scratch: decoder layers (g2p: encoder layers too).")
    ] = None,
    d_model: Annotated[int | None, typer.Option(min=32, help="From scratch: width, a multiple of 32.")] = None,
    adapter: Annotated[str | None, typer.Option(help="residual_linear, linear, bottleneck or none.")] = None,
    loss: Annotated[str | None, typer.Option(help="deed (L_avg + L_N), mean (L_avg) or last (L_N).")] = None,
    dropout: Annotated[float | None, typer.Option(help="g2p: dropout inside the window of steps.")] = None,
    dropout_start: Annotated[int | None, typer.Option(help="g2p: first step with dropout.")] = None,
    dropout_stop: Annotated[int | None, typer.Option(help="g2p: first step without again.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="g2p, pages, scenes, and data sets for an OFA: go on from this saved model, with a fresh optimizer and "
            "schedule.",
        ),
    ] = None,
    conventional: Annotated[
        bool | None, typer.Option("--conventional", help="Train the plain model, for comparison.")
    ] = None,
    bf16: Annotated[bool | None, typer.Option(help="bfloat16 autocast.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training examples.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    given = {k: v for k, v in locals().items() if v is not None and k not in ("output", "task", "limit", "as_json")}
    result = run(output, task, given, limit)
    if as_json:
        typer.echo(json.dumps(result))
        return
    scores = {k: v for k, v in result.get("validation", {}).items() if isinstance(v, float)}
    said = "".join(
        f", {k.removeprefix('eval_').replace('_', ' ')} {v:.4f}" for k, v in scores.items() if "second" not in k
    )
    held_out = "" if task in ("g2p", "pages", "scenes") else f" --task {task}{f' --data {data}' if data else ''}"
    place = output / "model"
    typer.echo(f"{result['steps']} steps{said}; model in {place}; next: deed calibrate {place}{held_out}")


def run(output: Path, task: str, given: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train `task` by its recipe, changed by the options given.

    Raises:
        ValueError: an unknown task, an option that it does not take, one that it needs.
    """
    from deed.data.registry import READERS

    if task not in ("g2p", "pages", "scenes", *READERS):
        raise ValueError(f"--task must be one of g2p, pages, scenes, {', '.join(READERS)}, got {task!r}")
    if given.get("d_model", 32) % 32:
        raise ValueError(f"--d-model must be a multiple of 32, got {given['d_model']}")
    if task == "g2p":
        from deed.recipes.g2p import G2pRecipe, train_g2p

        data = given.pop("data", None)
        start = given.get("start")
        if start is not None and (given.get("conventional") or not (start / "config.json").is_file()):
            raise ValueError(f"--from needs the folder of a saved deed model, and no --conventional; got {start}")
        return train_g2p(output, recipe_of(G2pRecipe, task, given, {"base"}), data, limit)
    if task == "pages":
        from deed.recipes.pages import PagesRecipe, train_pages

        return train_pages(output, recipe_of(PagesRecipe, task, given), limit=limit)
    if task == "scenes":
        from deed.recipes.scenes import ScenesRecipe, train_scenes

        return train_scenes(output, recipe_of(ScenesRecipe, task, given), limit)
    reader = READERS[task]
    given = {**given, "task": task}
    named = {*given, *(k for k, v in read_recipe(given["recipe"]).items() if v)} if "recipe" in given else {*given}
    if "latr" not in reader.models or ("ofa" in reader.models and "start" in named):
        from deed.recipes.pictures import PictureRecipe, train_pictures

        if "start" not in named:
            raise ValueError(f"--task {task} goes on from a saved OFA (`deed convert ofa` makes one): give --from")
        return train_pictures(output, recipe_of(PictureRecipe, task, given), limit)
    from deed.recipes.documents import DocumentRecipe, train_documents

    if "base" not in named:
        starts = "a T5 checkpoint: give --base (and --vit for pictures)"
        raise ValueError(
            f"--task {task} starts from {starts}{', or an OFA: --from' if 'ofa' in reader.models else ''}"
        )
    return train_documents(output, recipe_of(DocumentRecipe, task, given), limit)


def recipe_of(kind: Any, task: str, given: dict[str, Any], closed: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    """The task's recipe, or a recorded one, with the options given.

    Raises:
        ValueError: an option that the recipe does not have, or that is closed to this verb; a file that is no such recipe.
    """
    options = {k: v for k, v in given.items() if k != "recipe"}
    names, known = RENAMED.get(task, {}), {f.name for f in fields(kind)}
    values = {names.get(k, k): str(v) if isinstance(v, Path) else v for k, v in options.items()}
    unknown = sorted(k for k in options if names.get(k, k) not in known - closed)
    if unknown:
        raise ValueError(f"--task {task} takes no --{unknown[0].replace('_', '-').replace('start', 'from')}")
    recorded = read_recipe(given["recipe"]) if "recipe" in given else {}
    if strange := sorted(set(recorded) - known):
        raise ValueError(f"--recipe {given['recipe']} is no recipe of --task {task}: it has {', '.join(strange)}")
    for field in fields(kind):
        if field.name in recorded and not fits(recorded[field.name], field.default):
            raise ValueError(f"--recipe {given['recipe']}: {field.name} cannot be {recorded[field.name]!r}")
    return kind(**{**recorded, **values})


def fits(value: Any, default: Any) -> bool:
    """Whether a recorded value is of the kind of a field's default; where there is none to tell by, anything is."""
    if default is None or default is MISSING:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def read_recipe(path: Path) -> dict[str, Any]:
    """Raises:
    ValueError: not a JSON object.
    """
    from deed.utils.files import read_json

    found: dict[str, Any] = read_json(path, ValueError)
    return found


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(train)
