"""`deed ask` about a page: read it, by its own text or by OCR, and answer from its words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from deed.tasks.page_reading import NO_OCR, Reader, suited
from deed.tasks.questions import examples_of, what_it_reads, whole_object
from deed.utils.shipped import shipped

from .answering import DOCUMENT, answer_each, check_kind

CHECKPOINT, PAPERWORK = shipped("documents"), shipped("paperwork")
SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "invoice.pdf"


def ask_document(
    reader: Reader,
    page: int | None,
    questions: list[str],
    folder: Path | None,
    threshold: float | None,
    abstain_below: float | None,
    progress: Any,
    exact: bool = False,
) -> dict[str, Any]:
    """Read a page, or all of them, and answer.

    Args:
        reader: of the document.
        page: counted from 1; None: for each question the page whose answer is likeliest to be right.
        questions: one or more.
        folder: of the model; None: the shipped one for such a page (`page_reading.suited`).
        threshold: None: the model's own.
        abstain_below: an answer is sure from this confidence on; None: what calibration chose.
        progress: is told what is being done.
        exact: every token is full depth's.

    Returns:
        What `--json` prints, but for the file's name.

    Raises:
        ValueError: the wrong kind of model, a question that does not fit, or nothing to look at.
        DeedLoadError: a damaged model.
    """
    from deed.tasks.documents import DocumentTask

    from .ask_pages import best_places
    from .shared import find_model, quiet_libraries

    seconds = {}
    if folder is not None:
        folder = find_model(folder, CHECKPOINT)
        check_kind(folder, DOCUMENT)
    quiet_libraries()
    start = time.perf_counter()
    if page is not None:
        reader.document.index(page)  # before the model takes its time
    with progress.bar("reading the page" if page else "loading the model"):
        if page is None:
            seen = None
        else:
            seen = reader.read(page)
            seconds["page"] = time.perf_counter() - start
        start = time.perf_counter()
        if folder is None:
            folder = find_model(None, shipped(suited(seen)))
            check_kind(folder, DOCUMENT)
        task = DocumentTask("pages")
        model, processor = task.load(folder)
        seconds["model"] = time.perf_counter() - start
    if reader.ocr == NO_OCR and not processor.sees:
        raise ValueError("this model looks at words only; leave --ocr none out")

    def answer(seen: dict[str, Any], asked: list[str]) -> dict[str, Any]:
        return answers(task, model, processor, folder, seen, asked, threshold, abstain_below, exact)

    start = time.perf_counter()
    if seen is None or page is None:
        pages = range(1, reader.document.count + 1)
        results = best_places(task, model, processor, reader.read, pages, questions, answer, progress)
        results["pages"] = len(pages)
    elif min(examples_of(processor, seen, questions)[1]) < len(seen["words"]):  # longer than the model reads
        results = best_places(task, model, processor, lambda _: seen, [page], questions, answer, progress)
    else:
        with progress.bar("answering"):
            results = answer(seen, questions)
        results["answers"] = [{**told, "page": page, "window": None, "windows": 1} for told in results["answers"]]
        results["ocr"] = seen["ocr"]
    seconds["answers"] = time.perf_counter() - start
    return {**results, "reads": what_it_reads(folder), "seconds": seconds}


def answers(
    task: Any,
    model: Any,
    processor: Any,
    folder: Path,
    seen: dict[str, Any],
    questions: list[str],
    given: float | None,
    abstain_below: float | None = None,
    exact: bool = False,
) -> dict[str, Any]:
    """Answers to questions about one page, each with its text, its fields where it is a JSON object, and how it was made.

    Args:
        task, model, processor, folder, given, abstain_below, exact: as for `answer_each`.
        seen: of `Reader.read`.
        questions: as asked.

    Raises:
        ValueError: a question that does not fit.
    """
    from deed.report.places import is_json

    examples, fits = examples_of(processor, seen, questions)
    tokens, results = answer_each(task, model, processor, folder, examples, given, abstain_below, exact)
    found = []
    for i, told in enumerate(results["answers"]):
        text = task.answer(processor, tokens[i], examples[i])
        fields = whole_object(text) if is_json(text) else None
        found.append({"question": questions[i], "words_read": fits[i], "answer": text, "fields": fields, **told})
    notes = results["notes"]
    if seen["ocr"] and not seen["words"]:
        notes.append("No text was found on the page; the answer comes from the picture alone.")
    return {**results, "answers": found}
