"""`deed ask` where a page is to be found first: for each question the page of a document, and of a page longer than the
model reads the window of words, whose answer is likeliest to be right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from deed.errors import DataError
from deed.tasks.questions import examples_of, in_known_words

from .answering import few_threads

BATCH = 8  # windows of about the same length that are answered at once


class Place(NamedTuple):
    """Where a question is asked: a page, and the words of it from `first` to before `stop`."""

    page: int
    first: int
    stop: int


class Row(NamedTuple):
    """A question at a place: `question` is its number, `example` closed."""

    question: int
    place: Place
    example: Any
    encoded: Any


def best_places(
    task: Any,
    model: Any,
    processor: Any,
    read: Callable[[int], dict[str, Any]],
    pages: Sequence[int],
    questions: list[str],
    answer: Callable[[dict[str, Any], list[str]], dict[str, Any]],
    progress: Any,
) -> dict[str, Any]:
    """Every question asked of every page and window, and answered from the best one.

    Args:
        task, model, processor: of the document model.
        read: a page, as `Reader.read` does; called again for the pages that answers come from.
        pages: which.
        questions: as asked.
        answer: answers about one page, or the part of it that the `words` say.
        progress: is told how far it is.

    Returns:
        As `answer` does, each answer with its `page`, the `window` of the page's words that it was read from ([first, stop];
        None: the whole page) and how many `windows` the page has; `ocr` tells of all readings together.

    Raises:
        DataError: no page can be read.
        ValueError: a question that does not fit.
    """
    rows: list[Row] = []
    readings, damaged = {}, []
    with progress.bar(f"reading {len(pages)} pages", total=len(pages)) as bar:
        for page in pages:
            try:
                seen = read(page)
            except DataError as error:  # one bad page does not make the others unreadable
                damaged.append((page, error))
            else:
                readings[page] = {**seen, "picture": None}
                rows += rows_of(task, processor, seen, page, questions)
            bar.advance()
    if not readings:
        raise damaged[0][1]
    rows.sort(key=lambda row: len(row.encoded["input_ids"]))
    best: dict[int, tuple[Any, Place]] = {}
    with few_threads(model), progress.bar(f"asking {len(readings)} pages", total=len(rows)) as bar:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            for row, how_sure in zip(part, certainty(task, model, processor, part), strict=True):
                before = best.get(row.question)
                # Of places as sure as each other the first in the document.
                if before is None or how_sure > before[0] or (how_sure == before[0] and row.place < before[1]):
                    best[row.question] = how_sure, row.place
            bar.advance(len(part))
    results: dict[str, Any] = {}
    answers: list[Any] = [None] * len(questions)
    for place in sorted({place for _, place in best.values()}):
        asked = [i for i in best if best[i][1] == place]
        seen = read(place.page)
        count = len(seen["words"])
        told = answer({**seen, "words": seen["words"][place.first : place.stop]}, [questions[i] for i in asked])
        for i, found in zip(asked, told["answers"], strict=True):
            n_windows = sum(row.question == i and row.place.page == place.page for row in rows)
            window = [place.first, place.stop] if n_windows > 1 else None
            answers[i] = {**found, "words_read": count, "page": place.page, "window": window, "windows": n_windows}
        notes = results.get("notes", [])
        results = {**told, "notes": notes + [note for note in told["notes"] if note not in notes]}
    results["notes"] += [f"Page {page} was left out: {error}" for page, error in damaged]
    long = [page for page in readings if any(row.place.page == page and row.place.first for row in rows)]
    if long:
        one = len(pages) == 1
        which = "The page is" if one else f"Page {', '.join(map(str, long))} {'is' if len(long) == 1 else 'are'}"
        how = f" ({answers[0]['windows']} windows, {len(readings[long[0]]['words'])} words)" if one else ""
        results["notes"].append(
            f"{which} longer than this model reads at once, and was read in overlapping windows{how}; the answer is that of "
            "the surest."
        )
    return {**results, "answers": answers, "ocr": together([r["ocr"] for r in readings.values()])}


def rows_of(task: Any, processor: Any, seen: dict[str, Any], page: int, questions: list[str]) -> list[Row]:
    """Questions about a page, encoded: once for each window of its words.

    Args:
        task, processor: of the document model.
        seen: of `Reader.read`.
        page: its number.
        questions: as asked.

    Raises:
        ValueError: a question that does not fit.
    """
    from deed.models.latr.windows import windows

    found = []
    for i, question in enumerate(questions):
        [whole], _ = examples_of(processor, seen, [question])
        words = seen["words"]
        parts = windows(processor, in_known_words(processor, question), words)
        for part in parts:
            [example], _ = examples_of(processor, {**seen, "words": words[part.start : part.stop]}, [question])
            encoded = task.encode(processor, task.opened(example))
            found.append(Row(i, Place(page, part.start, part.stop), task.closed(whole), encoded))
    return found


def certainty(task: Any, model: Any, processor: Any, rows: Sequence[Row]) -> list[tuple[bool, float]]:
    """How good each row's answer is, for choosing the best: whether there is one, and how sure the model is of it.

    The model's own threshold is used, for which answers are calibrated. Where they are not, it is the probability of the
    answer's least probable token.

    Args:
        task, model, processor: of the document model.
        rows: of `rows_of`.
    """
    from deed.constants import GREEDY
    from deed.data.base import UNANSWERABLE
    from deed.modeling.answer_watch import FEATURES

    batch = {k: v.to(model.device) for k, v in task.collate(processor, [row.encoded for row in rows]).items()}
    out = model.generate(**batch, **GREEDY, answer_confidence=True, return_dict_in_generate=True)
    sure = out.confidence
    if sure is None:
        sure = out.answer_features[:, FEATURES.index("log_prob_min")].exp()
    texts = [
        task.answer(processor, ids, row.example) for ids, row in zip(out.sequences[:, 1:].tolist(), rows, strict=True)
    ]
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
