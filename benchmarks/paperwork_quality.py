"""What a LaTr++ knows of documents that no training saw, by kind of question, at full depth and at its threshold: real PDFs
(40 of Debian's test packages, five questions each, words of the text layer), drawn forms in held-out layouts (read by OCR),
easy-vqa's test set, and generated pages (read by OCR; known layouts and layouts never seen).

    python benchmarks/paperwork_quality.py --model src/deed/checkpoints/latr --output benchmarks/results/paperwork_quality.json

Pages longer than the model reads are read in windows with --windows; else, as by default, they are cut.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from deed.calibration.calibrate_answers import uncalibrated
from deed.constants import NEVER_EXIT
from deed.data.base import UNANSWERABLE
from deed.data.debian.held_out import held_out
from deed.data.debian.packages import fetch, package_names, split_of
from deed.data.synthetic.forms_read import read_forms
from deed.modeling.answer_watch import FEATURES
from deed.modeling.model import DeedMixin
from deed.models.latr.windows import best_window, windows
from deed.ocr import default_cache
from deed.tasks.answering import answer_rows, score_answers
from deed.tasks.documents import DocumentTask
from deed.tasks.loading import load_saved
from deed.utils.timing import machine, versions

SETS = ("real", "forms", "easyvqa", "pages", "unseen")
FORMS = 200
RIGHT = 0.5  # ANLS (or 1 for exact match) from which an answer counts as right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of fetched Debian packages; default: fetched to the cache"
    )
    parser.add_argument("--ocr", type=Path, default=None, help="folder of OCR results; default: the cache")
    parser.add_argument("--windows", action="store_true", help="read long pages in windows")
    parser.add_argument("--pictures", action="store_true", help="give the model the pages' pictures, too")
    parser.add_argument("--forms", type=int, default=FORMS)
    parser.add_argument("--count", type=int, default=None, help="only so many questions of each set")
    parser.add_argument("--answers", type=Path, default=None, help="write every answer to this file, as JSON lines")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    started = time.time()
    model, processor = load_saved(options.model)
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "sets": {},
    }
    thresholds = [NEVER_EXIT]
    if isinstance(model, DeedMixin) and model.deed_config.threshold != NEVER_EXIT:
        thresholds.append(model.deed_config.threshold)
    answers: list[dict[str, Any]] = []
    for name in options.sets:
        task = DocumentTask("easyvqa" if name == "easyvqa" else "pages")
        examples = list(itertools.islice(examples_of(name, task, options), options.count))
        rows: list[dict[str, Any]] = []
        for threshold in thresholds:
            begun = time.time()
            # What calibration says of confidence holds at the model's own threshold.
            config = model.deed_config if isinstance(model, DeedMixin) else None
            aside = config is not None and threshold == NEVER_EXIT
            with uncalibrated(config) if aside else nullcontext():
                given, depth, sure = answer(task, model, processor, examples, threshold, options)
            right = [score >= RIGHT for score in task.score(given, examples)]
            row = {"threshold": threshold, "mean_depth": depth, **rounded(score_answers(task, given, examples))}
            row["right"] = round(sum(right) / len(right), 4)
            if any(value is not None for value in sure):
                least = config.answer_calibration["abstain_below"]
                kept = [r for r, value in zip(right, sure, strict=True) if value is not None and value >= least]
                row["sure"] = {"from": least, "answers": len(kept), "right": round(sum(kept) / max(1, len(kept)), 4)}
            rows.append({**row, "seconds": round(time.time() - begun)})
            print(name, json.dumps(rows[-1]), flush=True)
            answers += [
                {
                    "set": name,
                    "threshold": threshold,
                    "kind": e.kind,
                    "question": e.question,
                    "answer": a,
                    "right": e.answers,
                }
                for a, e in zip(given, examples, strict=True)
            ]
        result["sets"][name] = rows
    result["seconds"] = round(time.time() - started)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.answers is not None:
        options.answers.write_text(
            "".join(json.dumps(a, ensure_ascii=False) + "\n" for a in answers), encoding="utf-8"
        )


def examples_of(name: str, task: DocumentTask, options: argparse.Namespace) -> Iterator[Any]:
    """The questions of a set; pages without their pictures unless they are asked for."""
    if name == "easyvqa":
        return iter(task.examples("test", None))
    if name == "real":
        folder = options.data
        if folder is None:
            folder = default_cache().with_name("debian")
            fetch([package for package in package_names() if split_of(package) == "test"], folder)
        return held_out(folder)
    if name == "forms":
        found: Iterator[Any] = read_forms(options.forms, options.ocr)
    else:
        found = iter(task.examples("unseen" if name == "unseen" else "test", None))
    return found if options.pictures else (replace(example, image=None) for example in found)


def answer(
    task: DocumentTask, model: Any, processor: Any, examples: list[Any], threshold: Any, options: argparse.Namespace
) -> tuple[list[str], float | None, list[float | None]]:
    """Answers, of several windows the surest, the mean exit depth, and how sure each is, where answers are calibrated."""
    parts, owners = [], []
    for i, example in enumerate(examples):
        read = example.words
        cut = windows(processor, example.question, read) if options.windows else [range(len(read))]
        for part in cut:
            parts.append(task.encode(processor, task.opened(replace(example, words=read[part.start : part.stop]))))
            owners.append(i)
    told = {"exit_threshold": threshold, "answer_confidence": True} if isinstance(model, DeedMixin) else {}
    found = answer_rows(task, model, processor, parts, **told)
    texts = [task.answer(processor, ids, examples[i]) for ids, i in zip(found.tokens, owners, strict=True)]
    at = FEATURES.index("log_prob_mean")
    sure = [0.0] * len(texts) if found.features is None else found.features[:, at].tolist()
    confidences = [None] * len(texts) if found.confidences is None else list(found.confidences)
    if found.confidences is not None:
        sure = confidences
    given, sureness = [], []
    for _, group in itertools.groupby(range(len(owners)), key=owners.__getitem__):
        of_example = list(group)
        best = best_window([texts[j] for j in of_example], [sure[j] for j in of_example], UNANSWERABLE)
        given.append(texts[of_example[best]])
        sureness.append(confidences[of_example[best]])
    depth = found.mean_depth
    return given, round(depth, 3) if depth == depth else None, sureness


def rounded(scores: dict[str, Any]) -> dict[str, Any]:
    """Four digits, also inside."""
    return {
        k: rounded(v) if isinstance(v, dict) else round(v, 4) if isinstance(v, float) else v for k, v in scores.items()
    }


if __name__ == "__main__":
    main()
