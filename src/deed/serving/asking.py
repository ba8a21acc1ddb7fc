"""A question about a picture or a page, made ready for the scheduler, and what its tokens come to: text, evidence, confidence.

What blocks (reading files, OCR, encoding) is a plain function here, for a thread of the server's readers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from deed.data.base import UNANSWERABLE, Example
from deed.errors import DataError
from deed.models.latr.windows import windows
from deed.report.places import find_boxes, is_json, values_of
from deed.tasks.confidence import abstain_threshold
from deed.tasks.documents import DocumentTask
from deed.tasks.page_reading import Reader
from deed.tasks.pictures import PictureTask, box_of
from deed.tasks.questions import check_lengths, examples_of, in_known_words, in_one_line, whole_object

from .api_errors import ApiError
from .detokenize import Detokenizer
from .reading import opened_document
from .served import Asked, ByPage, ServedModel, mean_depth
from .settings import Limits
from .ticket import Finished
from .wire import AskResponse, Evidence, Generation, Times, TokenOut

TASKS = {"latr": ("document",), "ofa": ("vqa", "caption", "refer")}


@dataclass
class Question:
    """A question made ready.

    Attributes:
        served: the model it is for.
        task: document, vqa, caption or refer.
        text: as asked; None for captions.
        inputs: of the model, one row.
        asked: how it is answered.
        picture: the page or picture, upright.
        words: of the page, `(text, box on 0..1000)`; `cut` says how many of the last the model does not read.
        page, pages: which page of how many; `rotation` degrees clockwise by which it was turned.
        notes: what the reader should know.
        reading_s: seconds that this took.
        example: for the task, of LaTr++ and OFA.
    """

    served: ServedModel
    task: str
    text: str | None
    inputs: dict[str, Any]
    asked: Asked
    picture: Any = None
    words: list[Any] = field(default_factory=list)
    cut: int = 0
    page: int = 1
    pages: int = 1
    rotation: int = 0
    notes: list[str] = field(default_factory=list)
    reading_s: float = 0.0
    example: Any = None

    def detokenizer(self) -> Detokenizer:
        """Of its answer; the bins of a box are shown."""
        return Detokenizer(self.served.tokenizer, self.asked.stop, keep_special=self.task == "refer")


def ask_tasks(served: ServedModel) -> tuple[str, ...]:
    """What a model can be asked about pictures and pages, the usual one first."""
    kind = served.model.config.model_type
    if kind in TASKS:
        return TASKS[kind]
    names = {"document-qa": "document", "vqa": "vqa", "caption": "caption"}
    return tuple(names[task] for task in served.tasks if task in names)


def make_ready(
    models: ByPage, data: bytes, wanted: Generation, text: str | None, task: str | None, page: int, ocr: str
) -> Question:
    """Read a file and encode a question about it.

    Args:
        models: the model, or two of which the page chooses one.
        data: of the file.
        wanted: how it is answered.
        text: the question.
        task: None: the model's usual one.
        page: counted from 1.
        ocr: engine for pages without text of their own.

    Raises:
        DataError: a file that cannot be read, or has no such page.
        ApiError, ValueError: a question that does not fit the model, or a file above the limits.
    """
    began, served = time.perf_counter(), models.usual
    possible = ask_tasks(served)
    task = task or (possible[0] if possible else None)
    if task is None or task not in possible:
        can = f"is asked for {', '.join(possible)}" if possible else "answers no questions about files"
        raise ApiError(400, f"{served.name} {can}", "task")
    text = _checked_text(text, task, served.limits)
    kind = served.model.config.model_type
    with opened_document(data, served.limits) as document:
        document.check(page)
        if kind == "latr":
            question = _of_document(models, document, page, text or "", wanted, ocr)
        elif kind == "ofa":
            question = _of_picture(served, document.image(page), task, text, wanted)
        else:
            question = _by_pipeline(served, document.image(page), task, text, wanted)
        question.page, question.pages = page, document.count
    question.reading_s = time.perf_counter() - began
    return question


def all_pages(
    models: ByPage, data: bytes, wanted: Generation, text: str | None, task: str | None, ocr: str
) -> list[Question]:
    """The same question about every page that can be read.

    Args:
        models, data, wanted, text, task, ocr: as for `make_ready`; all pages are for one model, so that its confidence in them
            can be compared.

    Raises:
        DataError: no page can be read.
    """
    models = ByPage(models.of(None))
    with opened_document(data, models.usual.limits) as document:
        count = document.count
    found, failures = [], []
    for page in range(1, count + 1):
        try:
            found.append(make_ready(models, data, wanted, text, task, page, ocr))
        except DataError as error:  # one bad page does not make the others unreadable
            failures.append((page, error))
    if not found:
        raise failures[0][1]
    for question in found:
        question.notes += [f"Page {page} was left out: {error}" for page, error in failures]
    return found


def in_windows(question: Question) -> list[Question]:
    """The same question about each window of a page that is longer than the model reads; itself where the page fits.

    Args:
        question: as `make_ready` made it.
    """
    if not question.cut:
        return [question]
    task, processor, words = DocumentTask("pages"), question.served.processor, question.words
    page, text = {"picture": question.picture}, question.text or ""
    parts = windows(processor, in_known_words(processor, text), words)
    note = f"The page is longer than this model reads at once, and was read in {len(parts)} overlapping windows."
    found = []
    for part in parts:
        here = words[part.start : part.stop]
        [example], _ = examples_of(processor, {**page, "words": here}, [text])
        inputs = task.collate(processor, [task.encode(processor, example)])
        found.append(replace(question, inputs=inputs, words=here, cut=0, notes=[*question.notes, note]))
    return found


def surest(questions: list[Question], tokens: list[list[TokenOut]], ends: list[Finished]) -> int:
    """Which of several places (pages, windows) to answer from: its number, of equally sure ones the first.

    Args:
        questions: about each place.
        tokens, ends: of their answers.
    """
    return max(range(len(ends)), key=lambda i: (*how_sure(questions[i], tokens[i], ends[i]), -i))


def _checked_text(text: str | None, task: str, limits: Limits) -> str | None:
    if text is not None and len(text) > limits.text_chars:
        raise ApiError(413, f"the question has {len(text):,} letters, the limit is {limits.text_chars:,}", "question")
    text = text if text and text.strip() else None
    if task == "caption" and text is not None:
        raise ApiError(400, "a caption takes no question; leave it out, or ask with task=vqa", "question")
    if task != "caption" and text is None:
        raise ApiError(400, "a question is missing", "question")
    return text


def _of_document(models: ByPage, document: Any, page: int, text: str, wanted: Generation, ocr: str) -> Question:
    reader = Reader(document, "auto" if ocr == "rapidocr" else ocr, None)  # what was sent is kept nowhere
    seen = reader.read(page)
    served = models.of(seen)
    task, processor = DocumentTask("pages"), served.processor
    [example], [fits] = examples_of(processor, seen, [text])
    inputs = task.collate(processor, [task.encode(processor, example)])
    asked = served.asked(wanted, task.generation_options(served.model, processor))
    notes = []
    if seen["ocr"] and not seen["words"]:
        notes.append("No text was found on the page; the answer comes from the picture alone.")
    rotation = seen["ocr"]["rotation"] if seen["ocr"] else 0
    words = seen["words"]
    return Question(
        served,
        "document",
        text,
        inputs,
        asked,
        seen["picture"],
        words,
        len(words) - fits,
        rotation=rotation,
        notes=notes,
    )


def _of_picture(served: ServedModel, picture: Any, task: str, text: str | None, wanted: Generation) -> Question:
    kind, processor = PictureTask(f"scenes-{task}"), served.processor
    if task == "refer" and processor.n_bins < 2:
        raise ApiError(400, f"{served.name} has no location bins, in which a model says where a box is", "task")
    line = in_one_line(text or "")
    check_lengths(processor, task, [line] if text else [], served.model.config.max_position_embeddings)
    example = kind.opened(Example(line, [], image=picture))
    inputs = kind.collate(processor, [kind.encode(processor, example)])
    asked = served.asked(wanted, kind.generation_options(served.model, processor))
    return Question(served, task, text, inputs, asked, picture, example=example)


def _by_pipeline(served: ServedModel, picture: Any, task: str, text: str | None, wanted: Generation) -> Question:
    pipe = served.pipeline({"document": "document-qa"}.get(task, task))
    call = {} if text is None else {"question": text}
    row = pipe.pieces(picture, call)[0]
    return Question(served, task, text, pipe.collate([row]), served.asked(wanted, pipe.task_options(call)), picture)


def answer_text(question: Question, tokens: list[int]) -> str:
    """Generated tokens as the task's answer, without what comes after a stop text."""
    served = question.served
    if question.task == "refer":
        text = served.tokenizer.decode(tokens, skip_special_tokens=False)
        for special in (served.tokenizer.eos_token, served.tokenizer.bos_token):
            text = text.replace(special or "\0", "")
    else:
        text = served.tokenizer.decode(tokens, skip_special_tokens=True)
    cuts = [at for at in (text.find(stop) for stop in question.asked.stop) if at >= 0]
    return str(text[: min(cuts)] if cuts else text).strip()


def respond(question: Question, tokens: list[TokenOut], end: Finished, abstain_below: float | None) -> AskResponse:
    """The whole answer.

    Args:
        question: as it was made ready.
        tokens: of the answer.
        end: of its ticket.
        abstain_below: it is sure from this confidence on; None: what calibration chose.

    Raises:
        ValueError: `abstain_below` for a model whose answers are not calibrated.
    """
    served, ids = question.served, list(end.tokens)
    text = answer_text(question, ids)
    depth = mean_depth(tokens)
    confidence = end.answer_confidence
    sure_from = abstain_threshold(served.model, abstain_below)
    notes = list(question.notes)
    if question.cut:
        words = len(question.words)
        notes.append(
            f"The page is longer than this model reads: the last {question.cut} of its {words} words were cut."
        )
    evidence = [] if text == UNANSWERABLE else evidence_of(question, text, ids)
    if end.reason == "length":
        notes.append("The answer was cut at the most tokens allowed (max_new_tokens).")
    return AskResponse(
        model=served.name,
        task=question.task,
        text=text,
        answer=text,
        question=question.text,
        fields=whole_object(text) if is_json(text) else None,
        confidence=confidence,
        sure=None if confidence is None or sure_from is None else confidence >= sure_from,
        evidence=evidence,
        tokens=tokens,
        finish_reason=end.reason,
        mean_depth=depth,
        layers=served.layers,
        saving=None if depth is None else 1 - depth / served.layers,
        accepted=end.accepted,
        threshold=served.threshold_of(question.asked),
        page=question.page,
        pages=question.pages,
        size=question.picture.size if question.picture is not None else (0, 0),
        rotation=question.rotation,
        times=Times(reading=question.reading_s, queued=end.queued_s, first_token=end.first_token_s, total=end.total_s),
        notes=notes,
    )


def evidence_of(question: Question, text: str, ids: list[int]) -> list[Evidence]:
    """Where an answer stands on its page: the words that spell its values, or the box that it says itself.

    Args:
        question: with the page's words.
        text: the answer.
        ids: its tokens.
    """
    if question.task == "refer":
        box = box_of(question.served.processor, ids, question.example)
        if box is None:
            return []
        width, height = question.picture.size
        x0, x1 = sorted((box[0] / width, box[2] / width))
        y0, y1 = sorted((box[1] / height, box[3] / height))
        return [Evidence(text=question.text or "", boxes=[(x0, y0, x1, y1)])]
    if not question.words or not text:
        return []
    found = []
    for value in values_of(text):
        boxes = find_boxes(value.text, question.words, value.key or question.text or "")
        if boxes:
            scaled = [tuple(min(1.0, max(0.0, edge / 1000)) for edge in box) for box in boxes]
            found.append(Evidence(key=value.key, text=value.text, boxes=scaled))  # type: ignore[arg-type]
    return found


def how_sure(question: Question, tokens: list[TokenOut], end: Finished) -> tuple[bool, float]:
    """For choosing among pages: whether there is an answer, and how sure the model is of it; where answers are not calibrated,
    the probability of its least probable token.

    Args:
        question: about one page.
        tokens: of the answer.
        end: of its ticket.
    """
    text = answer_text(question, list(end.tokens))
    least = min((token.confidence for token in tokens if token.confidence is not None), default=0.0)
    return bool(text) and text != UNANSWERABLE, least if end.answer_confidence is None else end.answer_confidence
