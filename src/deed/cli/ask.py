"""`deed ask`: questions about any image or PDF page, answered with early exit; shows which layer gave each token."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.tasks.page_reading import ALWAYS, AUTO, NEVER, NO_OCR, Reader
from deed.tasks.questions import what_it_reads

from .answering import DOCUMENT, check_texts, closing_lines, confidence_line, times_line
from .ask_document import CHECKPOINT, PAPERWORK, SAMPLE, ask_document
from .ask_picture import TASKS, ask_picture, output_path, show_picture
from .options import Exact

EXAMPLE = (
    'Example: deed ask "what is the total?" asks about a sample invoice; deed ask invoice.pdf --page all "what is the '
    'total?" "what are all the fields?"; deed ask photo.png "the red apple left of the dog" --task refer'
)
ALL = "all"
SAMPLE_QUESTIONS = ["what is the total?", "what are all the fields?"]


def ask(
    image: Annotated[
        str | None, typer.Argument(help="An image file or a PDF.", show_default="a sample invoice")
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Argument(help="One question or more, each in quotes; what to find for refer, nothing for caption."),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="document: a page, by its words. refer: find what is described, and draw a box around it. caption: "
            "describe the picture. vqa: a question about a picture."
        ),
    ] = DOCUMENT,
    page: Annotated[
        str,
        typer.Option(
            help="Page of a PDF, counted from 1; all: for each question the page whose answer is likeliest to be right."
        ),
    ] = "1",
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a saved LaTr++ model, or OFA for pictures.", show_default="the one shipped with deed"
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own, calibrated")
    ] = None,
    abstain_below: Annotated[
        float | None,
        typer.Option(help="Call answers below this confidence not sure.", show_default="what calibration chose"),
    ] = None,
    exact: Exact = False,
    ocr: Annotated[
        str | None,
        typer.Option(
            help="auto: a PDF's own text where it covers the page, else OCR. always: OCR. never: a PDF's own text. rapidocr "
            "or tesseract: that engine, always. none: the page has no text.",
            show_default=AUTO,
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Keep what OCR read (~/.cache/deed/ocr, or $DEED_CACHE), and use it."),
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            help="For refer: the picture with boxes, PNG or JPEG.",
            show_default="IMAGE.boxes.png in this folder",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON, and nothing else.")] = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        image, page: what is asked about.
        questions, task: what is asked.
        model, threshold, abstain_below, exact, ocr, cache: how it is answered.
        output: where boxes are drawn.
        as_json: print the answers as JSON.
    """
    from deed.ocr import ENGINES, open_document, usable_cache
    from deed.utils.progress import RichProgress

    from .shared import check_abstain_below, check_threshold

    # In this order: what is quick to look at first.
    if task not in (DOCUMENT, *TASKS):
        raise ValueError(f"--task must be one of {', '.join((DOCUMENT, *TASKS))}, got {task!r}")
    if ocr is not None and task != DOCUMENT:
        raise ValueError(f"--ocr is for documents, and --task {task} reads no text; leave --ocr out")
    choices = (AUTO, ALWAYS, NEVER, *ENGINES, NO_OCR)
    if ocr not in (None, *choices):
        raise ValueError(f"--ocr must be one of {', '.join(choices)}, got {ocr!r}")
    check_threshold(threshold)
    check_abstain_below(abstain_below)
    number = page_number(page, task)
    file, texts = file_and_questions(image, questions or [], task)
    check_texts(task, texts)
    target = output_path(output, task, file, number or 1)
    hidden = as_json or not sys.stderr.isatty()
    with open_document(file) as document, RichProgress(hidden, transient=True) as progress:
        if task == DOCUMENT:
            reader = Reader(document, ocr or AUTO, usable_cache() if cache else None)
            results = ask_document(reader, number, texts, model, threshold, abstain_below, progress, exact)
        else:
            picture = document.image(number or 1)
            with progress.bar("looking at the picture"):
                results = ask_picture(picture, task, texts, model, target, threshold, abstain_below, exact)
    results = {"image": str(file), "page": number or ALL, **results}
    if file == SAMPLE:
        results["notes"] = [f"No file was given, so this was deed's sample invoice: {file}", *results["notes"]]
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
    else:
        (show if task == DOCUMENT else show_picture)(results)


def page_number(text: str, task: str) -> int | None:
    """What `--page` says; None for all pages.

    Args:
        text: as given.
        task: only documents have answers to choose among.

    Raises:
        ValueError: neither a number nor `all`, or `all` for a picture.
    """
    if text.lower() == ALL:
        if task != DOCUMENT:
            raise ValueError(f"--page all is for documents; with --task {task} name one page")
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--page must be a number, counted from 1, or all, got {text!r}") from None


def file_and_questions(first: str | None, others: list[str], task: str) -> tuple[Path, list[str]]:
    """What is asked about, and what is asked; the sample invoice where no file is named.

    Args:
        first: a file, or a question already.
        others: what follows it.
        task: the sample is a document.

    Raises:
        ValueError: no file for a task about pictures.
    """
    is_question = first is not None and not Path(first).exists() and looks_like_a_question(first)
    if first is not None and not is_question:
        return Path(first), others
    if task != DOCUMENT:
        raise ValueError(f"--task {task} needs a picture: deed ask FILE --task {task}")
    return SAMPLE, [first, *others] if first is not None else SAMPLE_QUESTIONS


def looks_like_a_question(text: str) -> bool:
    """Whether something that is no file was meant as a question: words, or a question mark, and no file's ending."""
    return text.rstrip().endswith("?") or (" " in text.strip() and " " in (Path(text).suffix or " "))


def show(results: dict[str, Any]) -> None:
    """Answers in the terminal, tokens colored by depth; readable in 50 columns."""
    from rich.text import Text

    from deed.report.html import milliseconds
    from deed.report.places import is_json, tokens_within, values_of

    from .painting import Painter

    painter, n_layers = Painter(results["n_layers"], results["end_token"]), results["n_layers"]
    console = painter.console
    for a in results["answers"]:
        console.print()
        console.print(Text(a["question"], style="bold"))
        console.print(confidence_line(a) + painter.running(a["pieces"], a["depths"]))
        if is_json(a["answer"]):
            table = painter.table("", "")
            for value in values_of(a["answer"]):
                at = tokens_within(value, a["pieces"], results["end_token"])
                table.add_row(
                    Text(value.key, style="dim"),
                    painter.running([a["pieces"][i] for i in at], [a["depths"][i] for i in at]),
                )
            if a["fields"] is None:
                table.add_row("", Text("(not finished: no whole JSON object)", style="dim"))
            console.print(table)
        console.print(times_line(a, n_layers, f"page {a['page']}" if results["page"] == ALL else ""))
    ocr = results["ocr"]
    read, notes = "", results["notes"]
    if ocr and ocr["ms"] is None:
        read = f"; {ocr['words']} words of the PDF's own text, no OCR"
    elif ocr:
        kept = " when it was first read" if ocr["cached"] else ""
        read = f"; OCR ({ocr['engine']}) {milliseconds(ocr['ms'])}{kept}, {ocr['words']} words"
        if ocr["reason"]:
            notes = [f"OCR read the page, since {ocr['reason']}.", *notes]
    if ocr and ocr["rotation"]:
        notes = [f"The page was turned by {ocr['rotation']} degrees clockwise to be upright.", *notes]
    closing_lines(painter, {**results, "notes": notes}, read)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    known = (
        ("The model shipped for short pages that OCR reads", CHECKPOINT),
        ("The one for a PDF's own text and for longer pages", PAPERWORK),
    )
    said = "".join(f"\n\n{name}: {reads}" for name, folder in known if (reads := what_it_reads(folder)))
    app.command(epilog=EXAMPLE, help=f"{__doc__}{said}")(ask)
