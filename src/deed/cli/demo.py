"""`deed demo`: a trained model answers what it never saw, questions about pages, scenes or the pronunciation of words, at full
depth and with early exit, taking turns; says what was saved and what it cost, in the terminal and as a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .shared import CHECKPOINTS

EXAMPLE = "Example: deed demo; deed demo --task scenes; deed demo --task g2p flibbertigibbet tomato"
CHECKPOINT, LATR_CHECKPOINT, OFA_CHECKPOINT = CHECKPOINTS / "g2p", CHECKPOINTS / "latr", CHECKPOINTS / "ofa"
TASKS = ("pages", "g2p", "scenes")
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
            "or g2p (words to pronunciations)."
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
            "with g2p, words of the test split.",
            show_default="30; scenes: 50; g2p: 1000",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own, calibrated")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json, and nothing else, to stdout.")] = False,
) -> None:
    from deed.report.html import require_report, write_report

    from . import demo_g2p, demo_pages, demo_scenes, demo_show, shared

    # All that can be wrong is looked at before minutes are spent on measuring.
    if task not in TASKS:
        raise ValueError(f"--task must be pages, g2p or scenes, got {task!r}")
    shared.check_threshold(threshold)
    if words and task in ELSEWHERE:
        raise ValueError(f"words of your own ({' '.join(words)}) need --task g2p; {ELSEWHERE[task]}")
    if task == "g2p":
        asked, sample = demo_g2p.take_words(words or [], count or demo_g2p.COUNT)
    shared.check_output(output)
    require_report()
    pictures: list[str] = []
    thumbs: dict[str, str] = {}
    if task == "g2p":
        folder = shared.find_model(model, CHECKPOINT)
        results = demo_g2p.measure_words(folder, sample, asked, threshold, quiet=as_json)
    elif task == "scenes":
        demo_scenes.check_scenes(count or demo_scenes.COUNT)
        folder = shared.find_model(model, OFA_CHECKPOINT)
        results, pictures, thumbs = demo_scenes.measure_scenes(
            folder, count or demo_scenes.COUNT, threshold, quiet=as_json
        )
    else:
        demo_pages.check_pages(count or demo_pages.COUNT)
        folder = shared.find_model(model, LATR_CHECKPOINT)
        results, pictures = demo_pages.measure_pages(folder, count or demo_pages.COUNT, threshold, quiet=as_json)
    page = write_report(results, output, pictures, thumbs)
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
    else:
        demo_show.show(results, page)


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(demo)
