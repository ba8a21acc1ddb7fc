"""`deed evaluate`: score and mean depth of a saved model, at full depth and at its threshold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.constants import NEVER_EXIT
from deed.utils.saved_model import read_saved_model

from .options import Count, Data, Exact, Json, SkipMissing
from .shared import check_abstain_below, whisper_or_folder

EXAMPLE = "Example: deed evaluate runs/g2p/model --split test"


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="Folder of a saved model, or base (Whisper); a plain one is scored at full depth only."),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="g2p, pages, easyvqa, docvqa …; for an OFA scenes (scenes-refer, scenes-caption, scenes-vqa and "
            "easyvqa), one of its parts, refcoco, coco_captions, vqav2, snli_ve …",
            show_default="g2p, for a LaTr++ pages, for an OFA scenes",
        ),
    ] = None,
    data: Data = None,
    split: Annotated[
        str,
        typer.Option(help="validation, calibration or test; pages also unseen (layouts), scenes too (combinations)."),
    ] = "test",
    threshold: Annotated[list[float] | None, typer.Option(help="Thresholds; default: the model's own.")] = None,
    count: Count = None,
    skip_missing: SkipMissing = False,
    original_settings: Annotated[
        bool,
        typer.Option(
            "--original-settings", help="For an OFA: beams and limits as its authors evaluate it with, not greedy."
        ),
    ] = False,
    abstain_below: Annotated[
        float | None,
        typer.Option(
            help="Confidence below which an answer is not sure; above 1: none is.",
            show_default="what deed calibrate --answers chose",
        ),
    ] = None,
    exact: Exact = False,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        model: the folder.
        task, data, split, count: on which examples.
        threshold: where it is scored, beside full depth.
        skip_missing: leave out examples whose picture is missing.
        exact: verify every token that leaves early by the last layer.
        original_settings: decode as the model's authors do.
        abstain_below: what is sure, for coverage and selective risk.
        as_json: print the result as JSON.
    """
    check_abstain_below(abstain_below)
    model = whisper_or_folder(model)
    read_saved_model(model)  # before PyTorch is imported, which takes a second
    from deed.modeling.model import DeedMixin
    from deed.tasks.answering import evaluate_task
    from deed.tasks.task import tasks_of
    from deed.utils.progress import Bar, RichProgress

    from .shared import counted, quiet_libraries

    tasks = tasks_of(model, [task] if task else None, split)
    quiet_libraries()
    reports = []
    with RichProgress(quiet=as_json) as progress:
        loaded, processor = tasks[0].load(model, plain=True)
        own = [loaded.deed_config.threshold] if isinstance(loaded, DeedMixin) else []
        thresholds: list[Any] = [NEVER_EXIT, *((threshold or own) if own else [])]
        for each in tasks:
            each.skip_missing = skip_missing
            options = each.original_options(loaded, processor) if original_settings else {}
            if exact:
                options = {**options, "exact": True}
            with progress.bar(each.name) as bar:

                def read(n: int, bar: Bar = bar) -> None:
                    bar.update(total=n * len(thresholds))

                examples = counted(each.examples(split, count, data), read)
                used, results = evaluate_task(
                    each, loaded, processor, examples, thresholds, bar.advance, abstain_below, **options
                )
            if not used:
                raise ValueError(f"{each.name} has no {each.unit}s with answers in split {split!r}")
            reports.append(
                {
                    "task": each.name,
                    "split": split,
                    "examples": used,
                    "unit": f"{each.unit}s",
                    "settings": "original" if original_settings else "greedy",
                    "results": results,
                }
            )
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
        beams = ", the original's settings" if report["settings"] == "original" else ""
        yield f"{place}: {', '.join(scores)}{depth} ({report['examples']} {report['unit']}{beams})"
        if told := row.get("answers"):
            wrong = "" if told["selective_risk"] is None else f", of which {told['selective_risk']:.1%} are wrong"
            yield (
                f"  sure of {told['coverage']:.1%} (confidence from {told['abstain_below']:g} on){wrong}; all: "
                f"{1 - told['right']:.1%} wrong; expected calibration error {told['ece']:.3f}"
            )


SAID = ("threshold", "mean_depth")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(evaluate)
