"""Quality of the shipped LaTr++ on pages read by the real OCR engine (new values in known layouts; layouts never seen) and on
easy-vqa's test set: full depth, calibrated threshold, every exit, thresholds, and a conventional training of the same size
and budget. Writes benchmarks/results/documents_quality.json.

    python benchmarks/documents_quality.py --deed src/deed/checkpoints/latr --conventional runs/pages_conv/model
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from deed import FixedSchedule
from deed.tasks.answering import FULL_DEPTH, answer_examples, score_answers
from deed.tasks.documents import DocumentTask
from deed.tasks.loading import load_saved
from deed.utils.timing import machine, versions

SETS = {"pages test": ("pages", "test"), "pages unseen": ("pages", "unseen"), "easyvqa test": ("easyvqa", "test")}
THRESHOLDS = (0.8, 0.9, 0.95, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deed", type=Path, required=True)
    parser.add_argument("--conventional", type=Path, default=None)
    parser.add_argument("--count", type=int, default=None, help="only so many questions of each set")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/documents_quality.json"))
    options = parser.parse_args()
    started = time.time()
    model, processor = load_saved(options.deed)
    calibrated = model.deed_config.threshold
    n_layers = len(model.deed_family.layers(model))
    plain = plain_processor = None
    if options.conventional is not None:
        plain, plain_processor = load_saved(options.conventional, plain=True)
    result: dict = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "threshold": calibrated,
        "sets": {},
    }
    for name, (task, split) in SETS.items():
        task = DocumentTask(task)
        depths, thresholds = (range(1, n_layers), THRESHOLDS) if task.name == "pages" else ((), ())
        ways = [FULL_DEPTH, {"exit_threshold": calibrated}]
        ways += [{"exit_policy": FixedSchedule([depth])} for depth in depths]
        ways += [{"exit_threshold": threshold} for threshold in thresholds]
        full, early, *rows = measure(task, model, processor, split, options.count, ways)
        part = {"metric": task.metric, "full_depth": full, "calibrated": early}
        if plain is not None:
            [part["conventional"]] = measure(task, plain, plain_processor, split, options.count, [FULL_DEPTH])
        print(name, json.dumps(part), flush=True)
        if depths:
            part["by_depth"] = [{"depth": d, **row} for d, row in zip(depths, rows, strict=False)]
            part["by_threshold"] = [
                {"threshold": t, **row} for t, row in zip(thresholds, rows[len(depths) :], strict=True)
            ]
        result["sets"][name] = part
    result["recipes"] = {
        name: json.loads((folder / "recipe.json").read_text())
        for name, folder in (("deed", options.deed), ("conventional", options.conventional))
        if folder is not None
    }
    result["seconds"] = round(time.time() - started)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)


def measure(task, model, processor, split, count, ways, batch_size=32) -> list[dict]:
    """Mean depth and scores of each way of leaving early; a plain model knows none and has no depth."""
    examples, found = answer_examples(task, model, processor, task.examples(split, count), ways, batch_size)
    return [
        {
            "mean_depth": round(depth, 3) if depth == depth else None,
            **rounded(score_answers(task, answers, examples)),
        }
        for answers, depth in found
    ]


def rounded(scores: dict) -> dict:
    """Four digits, also inside."""
    return {
        k: rounded(v) if isinstance(v, dict) else round(v, 4) if isinstance(v, float) else v for k, v in scores.items()
    }


if __name__ == "__main__":
    main()
