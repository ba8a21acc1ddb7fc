"""Counts, on a calibrated model's own calibration examples, the answers that differ from full depth's at its threshold, and
writes the bound of their share (`disagreement_bound`) into its configuration, where drift finds its limit (docs/drift.md).
For models that were calibrated before `deed calibrate` counted them, and for several tasks, each of which is counted.

    python benchmarks/drift_limit.py src/deed/checkpoints/ofa --count 400
"""

import argparse
from pathlib import Path
from typing import Any

from deed.calibration.answering import generate_all
from deed.calibration.risk import upper_bound
from deed.constants import NEVER_EXIT
from deed.modeling.saving import save_deed_config
from deed.tasks.task import tasks_of


def count(task: Any, model: Any, processor: Any, report: dict[str, Any], examples: int) -> None:
    found = task.examples(task.calibration_split, examples, None)
    rows = [task.row(processor, example) for example in found]
    options = task.generation_options(model, processor)
    full, early = (
        generate_all(model, [dict(row) for row in rows], threshold, 32, dict(options))[0]
        for threshold in (NEVER_EXIT, report["threshold"])
    )
    differ = sum(a != b for a, b in zip(full, early, strict=True))
    bound = upper_bound(differ, len(rows), report["confidence"])
    report |= {"disagreement_bound": bound, "disagreement_examples": len(rows)}
    print(f"{report['task']}: {differ} of {len(rows)} differ, at most {bound:.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=400)
    args = parser.parse_args()
    report: dict[str, Any] = {}
    model = processor = None
    tasks = {}
    for name in ("scenes", "easyvqa"):
        for task in tasks_of(args.model, [name], None):
            tasks[task.name] = task
            if model is None:
                model, processor = task.load(args.model)
    report = model.deed_config.calibration
    for each in (report, *report.get("others", ())):
        count(tasks[each["task"]], model, processor, each, args.count)
    save_deed_config(model, args.model)
