"""`deed demo`: a trained model answers what it never saw, questions about pages, scenes or the pronunciation of words, at full
depth and with early exit, taking turns; says what was saved and what it cost, in the terminal and as a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.utils.saved_model import read_saved_model
from deed.utils.shipped import shipped

EXAMPLE = "Example: deed demo; deed demo --task scenes; deed demo --task g2p flibbertigibbet tomato"
CHECKPOINT, LATR_CHECKPOINT, OFA_CHECKPOINT = shipped("pronunciation"), shipped("documents"), shipped("pictures")
# Where words of one's own belong that a task does not take.
ELSEWHERE = {
    "pages": "about a page of your own: deed ask IMAGE QUESTION",
    "scenes": "about a picture of your own: deed ask IMAGE TEXT --task refer, caption or vqa",
}


def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="With --task g2p: words of your own, answered beside the sample.", show_default=False),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="What to show: pages (questions about documents), scenes (boxes, captions and answers about pictures) "
            "or g2p (words to pronunciations); with --model any other task."
        ),
    ] = "pages",
    model: Annotated[
        Path | None, typer.Option(help="Folder of a saved deed model.", show_default="the one shipped with deed")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pages of known and as many of unseen layouts; scenes of known and as many of unseen combinations; "
            "else examples of the test split.",
            show_default="30; scenes: 50; g2p: 1000; else 100",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own, calibrated")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "--out", help="Folder for report.html and report.json.")] = Path(
        "runs/demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json, and nothing else, to stdout.")] = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        words, task, count: what is shown.
        model, threshold: how it is answered.
        output: where the report goes.
        as_json: print the report as JSON.
    """
    if model is not None:
        read_saved_model(model)  # before PyTorch is imported, which takes a second
    from deed.report.html import require_report, write_report

    from . import demo_pages, demo_scenes, demo_show, demo_words, shared
    from .answering import check_kind
    from .demo_measure import run_demo

    # All that can be wrong is looked at before minutes are spent on measuring.
    shows: dict[str, Any] = {"pages": demo_pages, "g2p": demo_words.Words(), "scenes": demo_scenes}
    if task not in shows and model is None:
        raise ValueError(f"--task must be {', '.join(shows)}, or any other together with --model; got {task!r}")
    shared.check_threshold(threshold)
    if words and task != "g2p":
        elsewhere = ELSEWHERE.get(task, "other tasks take none")
        raise ValueError(f"words of your own ({' '.join(words)}) need --task g2p; {elsewhere}")
    shipped = {"pages": LATR_CHECKPOINT, "scenes": OFA_CHECKPOINT}
    if task in shows:
        show = shows[task]
        show.check(count or show.COUNT, words or [])
    shared.check_output(output)
    require_report()
    folder = shared.find_model(model, shipped.get(task, CHECKPOINT))
    if task == "scenes":
        check_kind(folder, task)
    elif task not in shows:
        from deed.tasks.task import task_for

        show = demo_words.AnyTask(task_for(folder, task))
    page = run_demo(show, folder, count or show.COUNT, words or [], threshold, quiet=as_json)
    path = write_report(page.results, output, page.pictures, page.thumbs)
    if as_json:
        typer.echo(json.dumps(page.results, ensure_ascii=False))
    else:
        demo_show.show(page.results, path)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(demo)
