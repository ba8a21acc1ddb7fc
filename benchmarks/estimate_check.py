"""What `deed.estimate` predicts against what is then measured: answers at full depth and at the thresholds that it chose, in
turns, one at a time, on examples that it has not seen.

    python benchmarks/estimate_check.py --model src/deed/checkpoints/g2p --output benchmarks/results/estimate_check.json

Several --model (folders) are recorded together; a result that is there already is added to.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import deed
from deed.calibration.answering import collate
from deed.constants import GREEDY, NEVER_EXIT
from deed.modeling.model import DeedMixin
from deed.tasks.task import tasks_of
from deed.utils.files import atomic_write
from deed.utils.timing import interleave, machine, timed_encoder, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--task", default=None, help="default: the model's own")
    parser.add_argument("--data", type=Path, default=None, help="of the task, where it is on disk")
    parser.add_argument("--examples", type=int, default=200, help="that the estimate looks at")
    parser.add_argument("--timed", type=int, default=60, help="other examples, on which it is measured")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {"models": {}}
    about = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
    }
    for folder in options.model:
        found = check(folder, options)
        result["models"][found["task"]] = {**found, **about}
        print(json.dumps(found["compared"], indent=1), flush=True)
        with atomic_write(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


def check(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One model: the estimate, and decoder and answer times measured at each of its thresholds with the model's own exits."""
    task = tasks_of(folder, [options.task] if options.task else None, None)[0]
    model, processor = task.load(folder)
    count = options.examples + options.timed
    drawn = [
        task.row(processor, e)
        for e in itertools.islice(task.examples(task.calibration_split, count, options.data), count)
    ]
    rows = [{k: v for k, v in row.items() if k not in ("example", "labels", "task")} for row in drawn]
    settings = task.generation_options(model, processor)
    found = deed.estimate(model, rows[: options.examples], progress=print, **settings)
    model.deed_config.exit_check = "plain"
    ways: dict[str, dict[str, Any]] = {"full": {"exit_threshold": NEVER_EXIT}}
    predicted = [p for p in found.predictions if p.exits == "own"]
    for p in predicted:
        exact = p.mode == "exact"
        ways[f"{p.mode} {p.budget:g}"] = {"exact": True} if exact else {"exit_threshold": p.thresholds}
    assert isinstance(model, DeedMixin)
    with timed_encoder(model) as clock, torch.no_grad():

        def timed(way: dict[str, Any]) -> Any:
            def answer(inputs: Any) -> tuple[float, float, list[int]]:
                clock.take()
                start = time.perf_counter()
                tokens = model.generate(**inputs, **{**GREEDY, **settings}, **way)
                total = time.perf_counter() - start
                return total - clock.take(), total, tokens[0].tolist()

            return answer

        inputs = [collate(model, [row]) for row in rows[options.examples :]]
        runs = interleave({name: timed(way) for name, way in ways.items()}, inputs, warmup=5)
    compared = []
    for p, (name, measured) in zip(predicted, list(runs.items())[1:], strict=True):
        ratio = [sum(r[i] for r in runs["full"]) / sum(r[i] for r in measured) for i in (0, 1)]
        same = statistics.fmean(a[2] == b[2] for a, b in zip(runs["full"], measured, strict=True))
        compared.append(
            {
                "way": name,
                "predicted_decoder": p.decoder,
                "measured_decoder": ratio[0],
                "error": p.decoder[1] / ratio[0] - 1,
                "predicted_answer": p.answer,
                "measured_answer": ratio[1],
                "same_answers": same,
            }
        )
    return {"task": task.name, "model": folder.name, "estimate": found.to_dict(), "compared": compared}


if __name__ == "__main__":
    main()
