"""`deed ask`: questions about any image or PDF page, answered with early exit; shows which layer gave each token."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .answering import DOCUMENT, answer_each, check_kind, check_texts, closing_lines, spelled, times_line
from .ask_picture import TASKS, ask_picture, output_path, show_picture
from .shared import CHECKPOINTS

EXAMPLE = (
    'Example: deed ask invoice.pdf --page 2 "what is the total?" "what are all the fields?"; '
    'deed ask photo.png "the red apple left of the dog" --task refer'
)
CHECKPOINT = CHECKPOINTS / "latr"
OCR, NO_OCR = "rapidocr", "none"
AUTO, ALWAYS, NEVER = (
    "auto",
    "always",
    "never",
)  # whether OCR reads a page: where its own text does not cover it, or not


def ask(
    image: Annotated[Path, typer.Argument(help="An image file or a PDF.", show_default=False)],
    questions: Annotated[
        list[str] | None,
        typer.Argument(help="One question or more, each in quotes; what to find for refer, nothing for caption."),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="document: a page, read with OCR. refer: find what is described, and draw a box around it. caption: "
            "describe the picture. vqa: a question about a picture."
        ),
    ] = DOCUMENT,
    page: Annotated[int, typer.Option(help="Page of a PDF, counted from 1.")] = 1,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a saved LaTr++ model, or OFA for pictures.", show_default="the one shipped with deed"
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own, calibrated")
    ] = None,
    ocr: Annotated[
        str | None,
        typer.Option(
            help="auto: a PDF's own text where it covers the page, else OCR. always: OCR. never: a PDF's own text. rapidocr "
            "or tesseract: that engine, always. none: the page has no text.",
            show_default=AUTO,
        ),
    ] = None,
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
        model, threshold, ocr: how it is answered.
        output: where boxes are drawn.
        as_json: print the answers as JSON.
    """
    from rich.console import Console

    from deed.ocr import ENGINES, page_image, page_text

    from .shared import check_threshold

    # In this order: what is quick to look at first.
    if task not in (DOCUMENT, *TASKS):
        raise ValueError(f"--task must be one of {', '.join((DOCUMENT, *TASKS))}, got {task!r}")
    if ocr is not None and task != DOCUMENT:
        raise ValueError(f"--ocr is for documents, and --task {task} reads no text; leave --ocr out")
    choices = (AUTO, ALWAYS, NEVER, *ENGINES, NO_OCR)
    if ocr not in (None, *choices):
        raise ValueError(f"--ocr must be one of {', '.join(choices)}, got {ocr!r}")
    check_threshold(threshold)
    texts = questions or []
    check_texts(task, texts)
    target = output_path(output, task, image, page)
    picture = page_image(image, page)
    layer = page_text(image, page) if task == DOCUMENT and ocr in (None, AUTO, NEVER) else None
    if ocr == NEVER and (layer is None or not layer.words):
        raise ValueError(
            f"--ocr never: {image} has no text of its own{f', page {page}' if layer else ''}; leave --ocr out"
        )
    # A spinner leaves no trace where stderr is no terminal, and none of an error's one line.
    with Console(stderr=True, quiet=as_json).status("loading the model") as status:
        if task == DOCUMENT:
            results = ask_document(picture, texts, model, ocr or AUTO, threshold, status.update, layer)
        else:
            results = ask_picture(picture, task, texts, model, target, threshold, status.update)
    results = {"image": str(image), "page": page, **results}
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
    else:
        (show if task == DOCUMENT else show_picture)(results)


def ask_document(
    picture: Any,
    questions: list[str],
    folder: Path | None,
    ocr: str,
    threshold: float | None,
    say: Any,
    layer: Any = None,
) -> dict[str, Any]:
    """Read a page and answer.

    Args:
        picture: the page.
        questions: one or more.
        folder: of the model; None: the shipped one.
        ocr: as `--ocr`.
        threshold: None: the model's own.
        say: is told what is being done.
        layer: the page's own text, of a PDF.

    Returns:
        What `--json` prints, but for the file's name.

    Raises:
        ValueError: the wrong kind of model, a question that does not fit, or nothing to look at.
        DeedLoadError: a damaged model.
    """
    from deed.tasks.documents import DocumentTask

    from .shared import find_model, quiet_libraries

    folder = find_model(folder, CHECKPOINT)
    check_kind(folder, DOCUMENT)
    quiet_libraries()
    task = DocumentTask("pages")
    model, processor = task.load(folder)
    say("reading the page")
    seen = read(picture, ocr, layer)
    if seen["ocr"] is None and not processor.sees:
        raise ValueError("this model looks at words only; leave --ocr none out")
    say("answering")
    return answers(task, model, processor, folder, seen, questions, threshold)


def read(picture: Any, ocr: str, layer: Any = None) -> dict[str, Any]:
    """The page as the model gets it: upright, with its words; and what is said of the reading (None without).

    Args:
        picture: the page as it lies.
        ocr: as `--ocr`.
        layer: the page's own text, of a PDF; used where it covers the page, or where OCR is never to read it.
    """
    from deed.ocr import read_page, turn_image

    if ocr == NO_OCR:
        return {"picture": picture, "words": [], "ocr": None}
    if layer is not None and (layer.covers or ocr == NEVER):
        said = {
            "engine": "text layer",
            "ms": None,
            "words": len(layer.words),
            "rotation": layer.rotation,
            "reason": "",
        }
        return {"picture": turn_image(picture, layer.rotation), "words": layer.words, "ocr": said}
    result = read_page(picture, engine=OCR if ocr in (AUTO, ALWAYS) else ocr)
    said = {
        "engine": result.engine,
        "ms": 1e3 * result.seconds,
        "words": len(result.words),
        "rotation": result.rotation,
        "reason": "" if layer is None else layer.reason,
    }
    return {"picture": turn_image(picture, result.rotation), "words": result.words, "ocr": said}


def answers(
    task: Any,
    model: Any,
    processor: Any,
    folder: Path,
    seen: dict[str, Any],
    questions: list[str],
    given: float | None,
) -> dict[str, Any]:
    """What `--json` prints, but for the file's name.

    Args:
        task, model, processor, folder, given: as for `answer_each`.
        seen: of `read`.
        questions: as asked.

    Raises:
        ValueError: a question that does not fit.
    """
    from deed.data.base import Example
    from deed.report.places import is_json

    known = [in_known_words(processor, question) for question in questions]
    fits = [words_that_fit(processor, question, seen["words"]) for question in known]
    examples = [Example(question, [], seen["words"], seen["picture"]) for question in known]
    tokens, results = answer_each(task, model, processor, folder, examples, given)
    found = []
    for i, told in enumerate(results["answers"]):
        text = task.answer(processor, tokens[i], examples[i])
        fields = whole_object(text) if is_json(text) else None
        found.append({"question": questions[i], "words_read": fits[i], "answer": text, "fields": fields, **told})
    notes = results["notes"]
    if seen["ocr"] and not seen["words"]:
        notes.append("No text was found on the page; the answer comes from the picture alone.")
    if min(fits) < len(seen["words"]):
        notes.append(
            f"The page is longer than this model reads: the last {len(seen['words']) - min(fits)} of its "
            f"{len(seen['words'])} words were cut (max_length {processor.max_length} tokens)."
        )
    return {**results, "ocr": seen["ocr"], "answers": found}


def whole_object(text: str) -> dict[str, Any] | None:
    """The fields of a JSON object; None where the model did not finish it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def in_known_words(processor: Any, question: str) -> str:
    """The question, in small letters where that takes fewer tokens: a small vocabulary knows whole words in that form
    only, and its model has seen no other. Vocabularies with "What" as well as "what" get the question as it is."""
    question = " ".join(question.split())
    small = question.lower()
    few, many = spelled(processor.tokenizer, [small, question])
    return small if few < many else question


def words_that_fit(processor: Any, question: str, words: list[Any]) -> int:
    """How many of the words, from the first, the processor keeps beside the question.

    Args:
        processor: a `LatrProcessor`.
        question: as it is asked.
        words: `(text, box)` in reading order.

    Raises:
        ValueError: the question alone is too long.
    """
    if spelled(processor.tokenizer, [question])[0] < processor.max_length:  # or encoding it would cut it
        room = processor.max_length - len(processor.encode(question, [])[0])
        if room > 0:
            lengths = spelled(processor.tokenizer, [text for text, _ in words])
            return sum(used <= room for used in itertools.accumulate(lengths))
    raise ValueError(f"the question is longer than this model reads ({processor.max_length} tokens); shorten it")


def show(results: dict[str, Any]) -> None:
    """Answers in the terminal, tokens colored by depth; readable in 60 columns."""
    from rich.text import Text

    from deed.report.html import milliseconds
    from deed.report.places import is_json, tokens_within, values_of

    from .painting import Painter

    painter, n_layers = Painter(results["n_layers"], results["end_token"]), results["n_layers"]
    console = painter.console
    for a in results["answers"]:
        console.print()
        console.print(Text(a["question"], style="bold"))
        console.print(painter.running(a["pieces"], a["depths"]))
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
        console.print(times_line(a, n_layers))
    ocr = results["ocr"]
    read, notes = "", results["notes"]
    if ocr and ocr["ms"] is None:
        read = f"; {ocr['words']} words of the PDF's own text, no OCR"
    elif ocr:
        read = f"; OCR ({ocr['engine']}) {milliseconds(ocr['ms'])}, {ocr['words']} words"
        if ocr["reason"]:
            notes = [f"OCR read the page, since {ocr['reason']}.", *notes]
    if ocr and ocr["rotation"]:
        notes = [f"The page was turned by {ocr['rotation']} degrees clockwise to be upright.", *notes]
    closing_lines(painter, {**results, "notes": notes}, read)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(ask)
