"""What the confidence of answers is worth, for the shipped models on sets that neither training nor calibration saw: expected
calibration error before (the answer's own probability) and after, coverage and selective risk at the calibrated threshold and
at others. The LaTr++ is also asked about real pages, of Debian's documentation packages. Writes
benchmarks/results/answer_confidence.json.

    python benchmarks/answer_confidence.py                       # packages are fetched into deed's cache
    python benchmarks/answer_confidence.py --debian FOLDER       # packages that are there

The models themselves are calibrated by

    deed calibrate src/deed/checkpoints/latr --answers --task pages --task easyvqa --task debian --count 600
    deed calibrate src/deed/checkpoints/g2p --answers --count 1500
    deed calibrate src/deed/checkpoints/ofa --answers --task scenes --count 400
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import numpy as np

from deed.calibration.reliability import reliability
from deed.calibration.selective import selective_risk
from deed.modeling.answer_watch import FEATURES
from deed.tasks.answering import answer_rows
from deed.tasks.confidence import are_right
from deed.tasks.task import get_task
from deed.utils.files import write_json
from deed.utils.saved_model import read_saved_model
from deed.utils.timing import machine, versions

CHECKPOINTS = Path(__file__).parents[1] / "src" / "deed" / "checkpoints"
SETS = {
    "g2p": [("g2p", "test")],
    "latr": [("pages", "test"), ("pages", "unseen"), ("easyvqa", "test"), ("debian", "validation")],
    "ofa": [(f"scenes-{asks}", split) for asks in ("refer", "caption", "vqa") for split in ("test", "unseen")]
    + [("easyvqa", "test")],
}
THRESHOLDS = (0.5, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(SETS))
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder with the models' folders")
    parser.add_argument("--count", type=int, default=400, help="questions of each set")
    parser.add_argument("--debian", type=Path, default=None, help="folder of fetched packages")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/answer_confidence.json"))
    options = parser.parse_args()
    started = time.time()
    result: dict = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "models": {},
    }
    for name in options.models:
        folder = options.checkpoints / name
        kind = read_saved_model(folder).model_type
        tasks = [(get_task(task, kind), split) for task, split in SETS[name]]
        model, processor = tasks[0][0].load(folder)
        stored = model.deed_config.answer_calibration
        report = stored["report"]
        found = result["models"][name] = {
            "abstain_below": stored["abstain_below"],
            "risk": stored["risk"],
            "confidence": stored["confidence"],
            "settings": stored["settings"],
            "features": stored["features"],
            "weights": stored["weights"],
            "calibration": {k: report[k] for k in ("examples", "certified_on", "coverage", "given", "selective_risk")},
            "sets": {},
        }
        for task, split in tasks:
            data = options.debian if task.name == "debian" else None
            part = measure(task, model, processor, split, options.count, data, stored["abstain_below"])
            found["sets"][f"{task.name} {split}"] = part
            print(
                name, task.name, split, {k: v for k, v in part.items() if not isinstance(v, (dict, list))}, flush=True
            )
    result["seconds"] = round(time.time() - started)
    write_json(options.output, result, indent=1)


def measure(task, model, processor, split, count, data, threshold) -> dict:
    """Reliability and selective risk on one set."""
    confidences, before, right, depths = [], [], [], []
    left = itertools.islice(iter(task.examples(split, count, data)), count)
    while chunk := [task.row(processor, example) for example in itertools.islice(left, 128)]:
        examples = [row["example"] for row in chunk]
        rows = [{k: row[k] for k in row if k not in ("example", "task")} for row in chunk]
        found = answer_rows(task, model, processor, rows, answer_confidence=True)
        answers = [task.answer(processor, ids, x) for ids, x in zip(found.tokens, examples, strict=True)]
        right += are_right(task, answers, examples)
        confidences += found.confidences
        before += found.features[:, FEATURES.index("log_prob_sum")].exp().tolist()
        depths += found.features[:, FEATURES.index("depth_mean")].tolist()
    after = reliability(confidences, right)
    levels = sorted({*THRESHOLDS, threshold})
    return rounded(
        {
            "questions": len(right),
            "right": after["accuracy"],
            "mean_confidence": after["mean_confidence"],
            "ece": after["ece"],
            "ece_of_perfect_confidence": by_chance(confidences),
            "adaptive_ece": after["adaptive_ece"],
            "auroc": after["auroc"],
            "ece_before": reliability(np.clip(before, 0, 1), right)["ece"],
            "auroc_before": reliability(np.clip(before, 0, 1), right)["auroc"],
            **selective_risk(confidences, right, threshold),
            "mean_depth_share": float(np.mean(depths)),
            "by_threshold": [{"threshold": t, **selective_risk(confidences, right, t)} for t in levels],
            "bins": after["bins"],
        }
    )


def by_chance(confidences, runs: int = 200) -> float:
    """The error that so few answers show on average where every confidence is exactly right."""
    rng, values = np.random.default_rng(0), np.asarray(confidences)
    return float(np.mean([reliability(values, rng.random(len(values)) < values)["ece"] for _ in range(runs)]))


def rounded(value):
    """Four digits, also inside."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
