"""Quality of the shipped LaTr++ on pages read by the real OCR engine (new values in known layouts; layouts never seen) and on
easy-vqa's test set: full depth, calibrated threshold, every exit, thresholds, and a conventional training of the same size
and budget. Writes benchmarks/results/documents_quality.json.

    python benchmarks/documents_quality.py --deed src/deed/checkpoints/latr --conventional runs/pages_conv/model
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path

from deed import FixedSchedule
from deed.tasks import documents as document_run
from deed.tasks.held_out import examples_of
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
    model, processor = document_run.load(options.deed)
    calibrated = model.deed_config.threshold
    n_layers = len(model.deed_family.layers(model))
    plain = plain_processor = None
    if options.conventional is not None:
        plain, plain_processor = document_run.load(options.conventional, plain=True)
    result: dict = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "threshold": calibrated,
        "sets": {},
    }
    for name, (task, split) in SETS.items():
        metric, found = examples_of(task, None, split, split, options.count)
        rows, plain_rows, examples = [], [], []
        for example in found:
            rows.append(document_run.encode(processor, example))
            if plain_processor is not None:
                plain_rows.append(document_run.encode(plain_processor, example))
            examples.append(document_run.without_picture(example))

        measure = functools.partial(score, processor, rows, examples, metric)
        print(name, len(examples), flush=True)
        part = {"metric": metric, "full_depth": measure(model), "calibrated": measure(model, calibrated)}
        if plain is not None:
            part["conventional"] = score(plain_processor, plain_rows, examples, metric, plain)
        print(json.dumps(part), flush=True)
        if task == "pages":
            part["by_depth"] = [{"depth": d, **measure(model, None, FixedSchedule([d]))} for d in range(1, n_layers)]
            part["by_threshold"] = [{"threshold": t, **measure(model, t)} for t in THRESHOLDS]
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


def score(processor, rows, examples, metric, subject, threshold=2.0, policy=None) -> dict:
    predictions, depth = document_run.answer(subject, processor, rows, threshold, policy=policy)
    scores = document_run.score(examples, predictions, metric)
    return {"mean_depth": round(depth, 3) if depth == depth else None, **rounded(scores)}


def rounded(scores: dict) -> dict:
    """Four digits, also inside."""
    return {
        k: rounded(v) if isinstance(v, dict) else round(v, 4) if isinstance(v, float) else v for k, v in scores.items()
    }


if __name__ == "__main__":
    main()
