"""`deed demo`: page images that training never saw, read by the OCR engine now, a short question and one for all fields
about each; half of them in layouts that training saw, half in others."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deed.utils.progress import Progress

from .demo_measure import Page, Sample
from .demo_results import FEW_THRESHOLDS, Question, part_results

SEED = 0  # of the short question of a page
COUNT = 30  # pages of each split
SPLITS = {"test": "known layouts", "unseen": "unseen layouts"}
SHORT, WHOLE = "short answers", "all fields"
TIMED = 40  # questions on which the curve is timed: ten pages of each split
THRESHOLDS = FEW_THRESHOLDS
DRAWN = 8  # pages that the report shows, the first of both splits


@dataclass
class Sheet:
    """A page as read: what is told of it, its words, and the picture of those that are drawn."""

    page: dict[str, Any]
    words: list[Any]
    picture: str | None = None


def loaded_by() -> Any:
    """The task that loads the model."""
    from deed.tasks.documents import DocumentTask

    return DocumentTask("pages")


def check(count: int, words: Sequence[str]) -> None:
    """Before anything is loaded.

    Raises:
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


def sample(processor: Any, count: int, words: Sequence[str], bars: Progress) -> Sample:
    """Draw the pages, read them with the OCR engine (nothing from its cache), and encode their questions; in the order of
    the report, the two splits in turn.

    Args:
        processor: encodes.
        count: pages of each split.
        words: none.
        bars: told how far this has come.
    """
    from deed.data.synthetic.pages_read import read_pages
    from deed.ocr import turn_image
    from deed.report.sheets import picture_uri
    from deed.utils.timing import spread

    task = loaded_by()
    asked: list[Question] = []
    sheets: list[Sheet] = []
    engine = ""
    with bars.bar("reading pages (OCR)", total=count * len(SPLITS)) as bar:
        streams = [read_pages(split, count, cache=False, bar=bar) for split in SPLITS]
        for index in range(count):
            for split, stream in zip(SPLITS, streams, strict=True):
                questions, result = next(stream)
                engine = result.engine
                page = {
                    "name": f"{split}/{index}",
                    "split": split,
                    "layout": questions[0].extra["layout"].replace("_", " "),
                    "layouts": SPLITS[split],
                    "size": list(result.size),
                    "words": len(result.words),
                    "ocr_ms": 1e3 * result.seconds,
                }
                sheets.append(Sheet(page, result.words))
                if len(sheets) <= DRAWN:
                    sheets[-1].picture = picture_uri(turn_image(questions[0].image, result.rotation))
                for example in half_and_half(questions):
                    told = {"question": example.question, "page": page["name"], "layout": page["layout"]}
                    told |= {"layouts": page["layouts"], "kind": example.kind}
                    asked.append(Question(task, task.closed(example), task.encode(processor, example), told))
    times = [sheet.page["ocr_ms"] for sheet in sheets]
    about = {
        "title": "questions about documents",
        "task": "pages",
        "unit": "question",
        "score_name": "ANLS",
        "sample": f"{len(asked)} questions about {len(sheets)} page images that training never saw",
        "ocr": {"engine": engine, "pages": len(sheets), "sum_ms": sum(times), "per_page_ms": spread(times)},
    }
    settings = {
        "pages": ", ".join(f"{count} of {split} ({name})" for split, name in SPLITS.items()),
        "questions": f"one short, one for all fields per page; seed {SEED}",
        "ocr": engine,
    }
    return Sample(asked, about, settings, sheets[:DRAWN])


def half_and_half(asked: Sequence[Any]) -> list[Any]:
    """Of a page's questions one short one, always the same, and the one for all fields."""
    short = [question for question in asked if question.kind != "all"]
    whole = next(question for question in asked if question.kind == "all")
    return [random.Random(f"{SEED}/{whole.id}").choice(short), whole]


def complete(page: Page, sample: Sample, measured: Any, judge: Any, processor: Any) -> None:
    """Adds the pages drawn, and the headline numbers of each half: layouts known and unseen, answers short and all fields.

    Args:
        page: gets `groups`, `pages` and pictures.
        sample: of `sample`.
        measured, judge: of the run.
        processor: knows the end token.
    """
    from deed.report.sheets import sheet as sheet_entry

    examples = page.results["examples"]
    groups = []
    for name in (*SPLITS.values(), SHORT, WHOLE):
        at = [i for i, e in enumerate(examples) if name in (e["layouts"], WHOLE if e["kind"] == "all" else SHORT)]
        groups.append(
            {"name": name, "questions": len(at), **part_results(measured, judge, at, page.results["n_layers"])}
        )
    for row in examples:
        row["anls"] = row["value"]
    page.results["groups"] = groups
    page.results["pages"] = [
        sheet_entry(
            sheet.page, sheet.words, [(at, examples[at]) for at in (2 * i, 2 * i + 1)], page.results["end_token"]
        )
        for i, sheet in enumerate(sample.kept)
    ]
    page.pictures = [sheet.picture or "" for sheet in sample.kept]
