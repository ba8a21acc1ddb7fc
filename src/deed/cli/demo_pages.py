"""`deed demo`: page images that training never saw, read by the OCR engine now, a short question and one for all fields
about each; half of them in layouts that training saw, half in others."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 0  # of the short question of a page
COUNT = 30  # pages of each split
SPLITS = {"test": "known layouts", "unseen": "unseen layouts"}
SHORT, WHOLE = "short answers", "all fields"
TIMED_FOR_CURVE = 40  # questions: ten pages of each split
THRESHOLDS = (0.7, 0.9, 0.95, 0.99, 0.999, 2.0)  # fewer than bench.THRESHOLDS: an answer takes long at full depth
DRAWN = 8  # pages that the report shows, the first of both splits


@dataclass
class Sheet:
    """A page as read: its questions with the model's inputs for them, words, and the picture of those that are drawn."""

    page: dict[str, Any]
    questions: list[Any]
    rows: list[dict[str, Any]]
    words: list[Any]
    picture: str | None = None


@dataclass
class Reading:
    """All pages in the order of the report, the two splits in turn."""

    sheets: list[Sheet] = field(default_factory=list)
    engine: str = ""

    @property
    def questions(self) -> list[Any]:
        return [question for sheet in self.sheets for question in sheet.questions]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for sheet in self.sheets for row in sheet.rows]


def check_pages(count: int) -> None:
    """Raises:
    ValueError: more pages asked for than there are, or a package that pages or OCR need is missing.
    """
    for package in ("PIL", "rapidocr", "onnxruntime", "rapidfuzz"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the pages demo needs {package}, which is not installed: "
                'pip install "deed-transformers[documents,report]"'
            )
    from deed.data.synthetic import pages

    most = min(pages.SPLITS[split] for split in SPLITS)
    if count > most:
        raise ValueError(f"--count must be at most {most}, the pages of each split, got {count}")


def read_sheets(processor: Any, count: int, bars: Any) -> Reading:
    """Draw the pages, read them with the OCR engine (nothing from its cache), and encode their questions."""
    from deed.data.synthetic.pages_read import read_pages
    from deed.ocr import turn_image
    from deed.report.sheets import picture_uri
    from deed.tasks.documents import encode

    bar = bars.add_task("reading pages (OCR)", total=count * len(SPLITS))
    streams = [read_pages(split, count, cache=False, tick=lambda: bars.advance(bar)) for split in SPLITS]
    reading = Reading()
    for index in range(count):
        for split, stream in zip(SPLITS, streams, strict=True):
            asked, result = next(stream)
            reading.engine = result.engine
            questions = half_and_half(asked)
            page = {
                "name": f"{split}/{index}",
                "split": split,
                "layout": asked[0].extra["layout"].replace("_", " "),
                "layouts": SPLITS[split],
                "size": list(result.size),
                "words": len(result.words),
                "ocr_ms": 1e3 * result.seconds,
            }
            sheet = Sheet(page, questions, [encode(processor, question) for question in questions], result.words)
            if len(reading.sheets) < DRAWN:
                sheet.picture = picture_uri(turn_image(asked[0].image, result.rotation))
            reading.sheets.append(sheet)
    return reading


def half_and_half(asked: Sequence[Any]) -> list[Any]:
    """Of a page's questions one short one, always the same, and the one for all fields."""
    short = [question for question in asked if question.kind != "all"]
    whole = next(question for question in asked if question.kind == "all")
    return [random.Random(f"{SEED}/{whole.id}").choice(short), whole]


def measure_pages(
    folder: Path, count: int, given: float | None, quiet: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The results dict, which is `report.json`, and the pictures of `results["pages"]` as data URIs.

    Args:
        count: pages of each split.
        given: the threshold; None: the model's own.
    """
    from transformers import AutoModelForSeq2SeqLM

    from deed.report.sheets import sheet as sheet_entry
    from deed.tasks.documents import answer, inputs_of
    from deed.utils.timing import spread

    from .demo_measure import common_results, measure
    from .shared import load_documents_model, pick_threshold, progress_bars

    model, processor = load_documents_model(folder)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = processor.tokenizer
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    with progress_bars(quiet) as bars:
        reading = read_sheets(processor, count, bars)
        questions, rows = reading.questions, reading.rows
        measured = measure(
            base,
            model,
            [{k: v.to(model.device) for k, v in inputs_of(processor, [row]).items()} for row in rows],
            threshold,
            lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True),
            lambda predictions: scores(questions, predictions),
            lambda value, tick: answer(model, processor, rows, value, tick=tick),
            bars,
            timed=TIMED_FOR_CURVE,
            thresholds=THRESHOLDS,
        )
    pages = [sheet.page for sheet in reading.sheets for _ in sheet.questions]
    examples = question_rows(questions, pages, measured, tokenizer)
    drawn = reading.sheets[:DRAWN]
    marked = [
        sheet_entry(sheet.page, sheet.words, [(at, examples[at]) for at in (2 * i, 2 * i + 1)], tokenizer.eos_token)
        for i, sheet in enumerate(drawn)
    ]
    times = [sheet.page["ocr_ms"] for sheet in reading.sheets]
    settings = {
        "pages": ", ".join(f"{count} of {split} ({name})" for split, name in SPLITS.items()),
        "questions": f"one short, one for all fields per page; seed {SEED}",
        "ocr": reading.engine,
    }
    common = common_results(measured, examples, model, folder, source, note, settings)
    results = {
        "title": "questions about documents",
        "task": "pages",
        "unit": "question",
        "score_name": "ANLS",
        "sample": f"{len(rows)} questions about {len(times)} page images that training never saw",
        "end_token": tokenizer.eos_token,
        **common,
        "ocr": {"engine": reading.engine, "pages": len(times), "sum_ms": sum(times), "per_page_ms": spread(times)},
        "groups": groups(questions, examples, measured, common["n_layers"]),
        "pages": marked,
    }
    return results, [sheet.picture or "" for sheet in drawn]


def scores(questions: Sequence[Any], predictions: Sequence[str]) -> dict[str, Any]:
    """`score` (ANLS), `exact_match`, and `field_f1` over the JSON answers where there are any."""
    from deed.tasks import documents as document_run

    found = document_run.score(questions, predictions)
    return {"score": found["anls"], **{k: found[k] for k in ("exact_match", "field_f1") if k in found}}


def question_rows(
    questions: Sequence[Any], pages: Sequence[dict[str, Any]], measured: Any, tokenizer: Any
) -> list[dict[str, Any]]:
    """A row of the report per question, with the page that it is about."""
    from deed.metrics.text import anls_each, exact_match_each
    from deed.report import text_pieces

    from .demo_measure import timed_pair

    references = [question.answers for question in questions]
    right = exact_match_each(measured.deed.predictions, references)
    full_right = exact_match_each(measured.full.predictions, references)
    near = anls_each(measured.deed.predictions, references)
    rows = []
    for i, (question, page) in enumerate(zip(questions, pages, strict=True)):
        full, deed = measured.full.runs[i], measured.deed.runs[i]
        rows.append(
            {
                "question": question.question,
                "page": page["name"],
                "layout": page["layout"],
                "layouts": page["layouts"],
                "kind": question.kind,
                "asked": False,
                "expected": question.answers,
                **timed_pair(full, deed, tokenizer),
                "pieces": text_pieces(tokenizer, deed.tokens),
                "encoder_ms": deed.encoder_ms,
                "right": bool(right[i]),
                "anls": near[i],
                "full_depth_right": bool(full_right[i]),
            }
        )
    return rows


def groups(
    questions: Sequence[Any], examples: Sequence[dict[str, Any]], measured: Any, n_layers: int
) -> list[dict[str, Any]]:
    """The headline numbers again for each half: layouts known and unseen, answers short and all fields."""
    from .demo_measure import part_results

    found = []
    for name in (*SPLITS.values(), SHORT, WHOLE):
        at = [i for i, e in enumerate(examples) if name in (e["layouts"], WHOLE if e["kind"] == "all" else SHORT)]
        asked = [questions[i] for i in at]
        full, deed = (scores(asked, [s.predictions[i] for i in at]) for s in (measured.full, measured.deed))
        found.append({"name": name, "questions": len(at), **part_results(measured, at, n_layers, full, deed)})
    return found
