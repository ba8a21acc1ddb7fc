"""`deed ask` about a page: read it, by its own text or by OCR, and answer from its words."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

from .answering import DOCUMENT, answer_each, check_kind, spelled
from .shared import CHECKPOINTS

CHECKPOINT = CHECKPOINTS / "latr"
SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "invoice.pdf"
OCR, NO_OCR = "rapidocr", "none"
# Whether OCR reads a page: where its own text does not cover it, or not.
AUTO, ALWAYS, NEVER = "auto", "always", "never"
SMALL_DPI = 72  # a page read without OCR is only looked at as a whole


class Reader:
    """Reads pages of one document.

    Args:
        document: of `deed.ocr.open_document`.
        ocr: as `--ocr`.
        cache: where OCR results are kept; None: nowhere.
    """

    def __init__(self, document: Any, ocr: str, cache: Path | None) -> None:
        self.document, self.ocr, self.cache = document, ocr, cache

    def read(self, page: int) -> dict[str, Any]:
        """The page as the model gets it: its `picture`, upright, its `words`, and in `ocr` what is said of the reading (None
        without).

        Args:
            page: counted from 1.

        Raises:
            DataError: a page that is not there, or damaged.
            ValueError: `--ocr never`, and the page has no text of its own.
        """
        from deed.ocr import read_page, turn_image

        if self.ocr == NO_OCR:
            return {"picture": self.document.image(page, SMALL_DPI), "words": [], "ocr": None}
        layer = self.document.text(page) if self.ocr in (AUTO, NEVER) else None
        if self.ocr == NEVER and (layer is None or not layer.words):
            where = f", page {page}" if layer else ""
            raise ValueError(f"--ocr never: {self.document.path} has no text of its own{where}; leave --ocr out")
        if layer is not None and (layer.covers or self.ocr == NEVER):
            picture, words, turn = self.document.image(page, SMALL_DPI), layer.words, layer.rotation
            said: dict[str, Any] = {"engine": "text layer", "ms": None, "reason": "", "cached": False}
        else:
            picture = self.document.image(page)
            engine = OCR if self.ocr in (AUTO, ALWAYS) else self.ocr
            result = read_page(picture, engine=engine, cache=self.cache)
            words, turn = result.words, result.rotation
            reason = layer.reason if layer else ""
            said = {"engine": result.engine, "ms": 1e3 * result.seconds, "reason": reason, "cached": result.cached}
        picture = turn_image(picture, turn)
        return {"picture": picture, "words": words, "ocr": {**said, "words": len(words), "rotation": turn}}


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
        folder: of the model; None: the shipped one.
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

    from .ask_pages import best_pages
    from .shared import find_model, quiet_libraries

    seconds = {}
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
        task = DocumentTask("pages")
        model, processor = task.load(folder)
        seconds["model"] = time.perf_counter() - start
    if reader.ocr == NO_OCR and not processor.sees:
        raise ValueError("this model looks at words only; leave --ocr none out")

    def answer(seen: dict[str, Any], asked: list[str]) -> dict[str, Any]:
        return answers(task, model, processor, folder, seen, asked, threshold, abstain_below, exact)

    start = time.perf_counter()
    if seen is not None:
        with progress.bar("answering"):
            results = answer(seen, questions)
        results["answers"] = [{**told, "page": page} for told in results["answers"]]
        results["ocr"] = seen["ocr"]
    else:
        results = best_pages(task, model, processor, reader, questions, answer, progress)
    seconds["answers"] = time.perf_counter() - start
    return {**results, "reads": what_it_reads(folder), "seconds": seconds}


def what_it_reads(folder: Path) -> str:
    """What a model reads and what not: the first paragraph of the section of that name in its card; empty where it has none.

    Args:
        folder: of the model.
    """
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    _, _, section = card.partition("\n## What it reads\n")
    return " ".join(section.strip().partition("\n\n")[0].split())


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
    if min(fits) < len(seen["words"]):
        notes.append(
            f"The page is longer than this model reads: the last {len(seen['words']) - min(fits)} of its "
            f"{len(seen['words'])} words were cut (max_length {processor.max_length} tokens)."
        )
    return {**results, "answers": found}


def examples_of(processor: Any, seen: dict[str, Any], questions: list[str]) -> tuple[list[Any], list[int]]:
    """Questions about a page as the task takes them, and how many of the page's words each of them leaves room for.

    Args:
        processor: a `LatrProcessor`.
        seen: of `Reader.read`.
        questions: as asked.

    Raises:
        ValueError: a question that does not fit.
    """
    from deed.data.base import Example

    known = [in_known_words(processor, question) for question in questions]
    fits = [words_that_fit(processor, question, seen["words"]) for question in known]
    return [Example(question, [], seen["words"], seen["picture"]) for question in known], fits


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
