"""`deed ask --page all`: for each question the page of a document whose answer is likeliest to be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deed.errors import DataError
from deed.tasks.page_reading import Reader
from deed.tasks.questions import examples_of

from .answering import few_threads

BATCH = 8  # pages of about the same length that are answered at once


def best_pages(
    task: Any,
    model: Any,
    processor: Any,
    reader: Reader,
    questions: list[str],
    answer: Callable[[dict[str, Any], list[str]], dict[str, Any]],
    progress: Any,
) -> dict[str, Any]:
    """Every question asked of every page, and answered from the best one.

    Args:
        task, model, processor: of the document model.
        reader: of the document.
        questions: as asked.
        answer: answers about one page.
        progress: is told how far it is.

    Returns:
        As `answer` does, each answer with its `page`; `ocr` tells of all readings together.

    Raises:
        DataError: no page can be read.
    """
    count = reader.document.count
    rows: list[tuple[int, int, Any, Any]] = []  # question, page, example, encoded
    readings, damaged = {}, []
    with progress.bar(f"reading {count} pages", total=count) as bar:
        for page in range(1, count + 1):
            try:
                seen = reader.read(page)
            except DataError as error:  # one bad page does not make the others unreadable
                damaged.append((page, error))
            else:
                readings[page] = {**seen, "picture": None}
                examples, _ = examples_of(processor, seen, questions)
                rows += [
                    (i, page, task.closed(example), task.encode(processor, task.opened(example)))
                    for i, example in enumerate(examples)
                ]
            bar.advance()
    if not readings:
        raise damaged[0][1]
    rows.sort(key=lambda row: len(row[3]["input_ids"]))
    best: dict[int, tuple[Any, int]] = {}
    with few_threads(model), progress.bar(f"asking {len(readings)} pages", total=len(rows)) as bar:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            for (i, page, _, _), how_sure in zip(part, certainty(task, model, processor, part), strict=True):
                best[i] = max(best.get(i, (how_sure, page)), (how_sure, page), key=lambda found: (found[0], -found[1]))
            bar.advance(len(part))
    results: dict[str, Any] = {}
    answers: list[Any] = [None] * len(questions)
    for page in sorted({page for _, page in best.values()}):
        asked = [i for i in best if best[i][1] == page]
        told = answer(reader.read(page), [questions[i] for i in asked])
        for i, found in zip(asked, told["answers"], strict=True):
            answers[i] = {**found, "page": page}
        notes = results.get("notes", [])
        results = {**told, "notes": notes + [note for note in told["notes"] if note not in notes]}
    results["notes"] += [f"Page {page} was left out: {error}" for page, error in damaged]
    return {**results, "answers": answers, "pages": count, "ocr": together([r["ocr"] for r in readings.values()])}


def certainty(
    task: Any, model: Any, processor: Any, rows: list[tuple[int, int, Any, Any]]
) -> list[tuple[bool, float]]:
    """How good each row's answer is, for choosing the best: whether there is one, and how sure the model is of it.

    The model's own threshold is used, for which answers are calibrated. Where they are not, it is the probability of the
    answer's least probable token.

    Args:
        task, model, processor: of the document model.
        rows: as `best_pages` has them.
    """
    from deed.constants import GREEDY
    from deed.data.base import UNANSWERABLE
    from deed.modeling.answer_watch import FEATURES

    batch = {k: v.to(model.device) for k, v in task.collate(processor, [row[3] for row in rows]).items()}
    out = model.generate(**batch, **GREEDY, answer_confidence=True, return_dict_in_generate=True)
    sure = out.confidence
    if sure is None:
        sure = out.answer_features[:, FEATURES.index("log_prob_min")].exp()
    texts = [task.answer(processor, ids, row[2]) for ids, row in zip(out.sequences[:, 1:].tolist(), rows, strict=True)]
    there = [bool(text.strip()) and text != UNANSWERABLE for text in texts]
    return list(zip(there, sure.tolist(), strict=True))


def together(readings: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What is said of the readings of all pages, as of one: engines, milliseconds of OCR and words."""
    told = [reading for reading in readings if reading]
    if not told:
        return None
    by_ocr = [reading for reading in told if reading["ms"] is not None]
    return {
        "engine": " and ".join(dict.fromkeys(reading["engine"] for reading in told)),
        "ms": sum(reading["ms"] for reading in by_ocr) if by_ocr else None,
        "words": sum(reading["words"] for reading in told),
        "rotation": 0,
        "reason": f"{by_ocr[0]['reason']} ({len(by_ocr)} of {len(told)} pages)"
        if by_ocr and by_ocr[0]["reason"]
        else "",
        "cached": bool(by_ocr) and all(reading["cached"] for reading in by_ocr),
    }
