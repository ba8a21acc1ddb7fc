"""`deed evaluate`: score and mean depth of a saved model, at full depth and at its threshold."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.constants import NEVER_EXIT

EXAMPLE = "Example: deed evaluate runs/g2p/model --split test"


def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model; a plain one is scored at full depth only.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="g2p, pages, easyvqa, docvqa …; for an OFA scenes (scenes-refer, scenes-caption, scenes-vqa and "
            "easyvqa), one of its parts, refcoco, coco_captions, vqav2, snli_ve …",
            show_default="g2p, for a LaTr++ pages, for an OFA scenes",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a data set on disk.")] = None,
    split: Annotated[
        str,
        typer.Option(help="validation, calibration or test; pages also unseen (layouts), scenes too (combinations)."),
    ] = "test",
    threshold: Annotated[list[float] | None, typer.Option(help="Thresholds; default: the model's own.")] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Use only so many examples of each task.", show_default="all; 1000 of scenes"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from deed.tasks.held_out import check_tasks, is_for_ofa

    tasks = check_tasks([task] if task else None, model, split)
    with Progress(console=Console(stderr=True), disable=as_json) as progress:
        if tasks == ["g2p"]:
            reports = [evaluate_g2p(model, split, threshold, count, progress)]
        elif is_for_ofa(model, tasks):
            reports = evaluate_pictures(model, tasks, data, split, threshold, count, progress)
        else:
            reports = [evaluate_documents(model, tasks[0], data, split, threshold, count, progress)]
    if as_json:
        typer.echo(json.dumps(reports[0] if len(reports) == 1 else {"task": task or "scenes", "tasks": reports}))
        return
    for report in reports:
        for line in lines_of(report):
            typer.echo(line if len(reports) == 1 else f"{report['task']}, {line}")


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """A line per threshold: where, scores, mean depth, of how many examples."""
    for row in report["results"]:
        place = "full depth" if row["threshold"] == NEVER_EXIT else f"threshold {row['threshold']}"
        scores = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in row.items() if isinstance(v, float) and k not in SAID]
        depth = f", mean depth {row['mean_depth']:.2f}" if row["mean_depth"] is not None else ""
        yield f"{place}: {', '.join(scores)}{depth} ({report['examples']} {report['unit']})"


SAID = ("threshold", "mean_depth")


def evaluate_g2p(
    folder: Path, split: str, threshold: list[float] | None, count: int | None, progress: Any
) -> dict[str, Any]:
    from deed.tasks import g2p
    from deed.tasks.g2p_run import answer, load

    rows = g2p.load_split(split)[:count]
    model, tokenizer = load(folder)
    words, references = [w for w, _ in rows], [a for _, a in rows]
    thresholds = [NEVER_EXIT, *(threshold or [model.deed_config.threshold])]
    bar = progress.add_task("evaluating", total=len(words) * len(thresholds))
    results = []
    for value in thresholds:
        predictions, depth = answer(model, tokenizer, words, value, tick=lambda n: progress.advance(bar, n))
        results.append({"threshold": value, "mean_depth": depth, **g2p.score(predictions, references)})
    return {"task": "g2p", "split": split, "examples": len(words), "unit": "words", "results": results}


def evaluate_documents(
    folder: Path,
    task: str,
    data: Path | None,
    split: str,
    threshold: list[float] | None,
    count: int | None,
    progress: Any,
) -> dict[str, Any]:
    from deed.modeling.model import DeedMixin
    from deed.tasks import documents as document_run
    from deed.tasks.held_out import examples_of

    model, processor = document_run.load(folder, plain=True)
    bar = progress.add_task("reading", total=None)
    metric, examples = examples_of(task, data, split, split, count, lambda i: progress.update(bar, completed=i))
    rows, kept = [], []
    for example in examples:  # pictures are let go at once: a page weighs megabytes
        rows.append(document_run.encode(processor, example))
        kept.append(document_run.without_picture(example))
    if not kept:
        raise ValueError(f"{task} has no questions with answers in split {split!r}")
    thresholds: list[Any] = [NEVER_EXIT]
    if isinstance(model, DeedMixin):
        thresholds += threshold or [model.deed_config.threshold]
    progress.update(bar, description="evaluating", completed=0, total=len(rows) * len(thresholds))
    results = []
    for value in thresholds:
        predictions, depth = document_run.answer(
            model, processor, rows, value, tick=lambda n: progress.advance(bar, n)
        )
        mean = None if depth != depth else depth  # a plain model has none to report
        results.append({"threshold": value, "mean_depth": mean, **document_run.score(kept, predictions, metric)})
    return {"task": task, "split": split, "examples": len(rows), "unit": "questions", "results": results}


def evaluate_pictures(
    folder: Path,
    tasks: list[str],
    data: Path | None,
    split: str,
    threshold: list[float] | None,
    count: int | None,
    progress: Any,
) -> list[dict[str, Any]]:
    """What an OFA does, a report per task."""
    from deed.modeling.model import DeedMixin
    from deed.tasks import picture_scores as ofa_scores
    from deed.tasks import pictures as ofa_run
    from deed.tasks.held_out import asks_of, examples_of

    model, processor = ofa_run.load(folder, plain=True)
    thresholds: list[Any] = [NEVER_EXIT]
    if isinstance(model, DeedMixin):
        thresholds += threshold or [model.deed_config.threshold]
    ways = [{"exit_threshold": value} for value in thresholds]
    reports = []
    for task in tasks:
        bar = progress.add_task(task, total=None)

        def reading(n: int, bar: Any = bar) -> None:
            progress.update(bar, total=n * len(thresholds))

        metric, examples = examples_of(task, data, split, split, count, reading)
        metric, asks = ofa_scores.name_of(metric), asks_of(task)
        advance = functools.partial(progress.advance, bar)
        kept, found = ofa_run.answer_all(model, processor, asks, examples, ways, tick=advance)
        if not kept:
            raise ValueError(f"{task} has no examples with answers in split {split!r}")
        results = [
            {
                "threshold": value,
                "mean_depth": None if depth != depth else depth,  # a plain model has none to report
                **ofa_scores.score(processor, metric, kept, answers),
            }
            for value, (answers, depth) in zip(thresholds, found, strict=True)
        ]
        unit = {"refer": "expressions", "caption": "pictures", "snli_ve": "sentences"}.get(asks, "questions")
        reports.append({"task": task, "split": split, "examples": len(kept), "unit": unit, "results": results})
    return reports


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(evaluate)
