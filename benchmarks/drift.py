"""Drift monitoring: false alarms by simulation, how soon a shift is found, and what the shipped models do on other inputs.
Writes benchmarks/results/drift.json.

    python benchmarks/drift.py --record     # counts differing answers on the calibration sets, into the shipped config.json
    python benchmarks/drift.py

Real inputs: a model answers a set at its own threshold and at full depth; the answers are then shown to the monitor in 200
random orders (with repetition, up to 5000 samples), and it is written down after how many samples it raised its alarm.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deed.calibration.answering import generate_all
from deed.calibration.risk import upper_bound
from deed.constants import NEVER_EXIT
from deed.data.base import Example
from deed.modeling.saving import save_deed_config
from deed.serving.confidence_sequence import ConfidenceSequence
from deed.serving.drift import disagreement, limit_of
from deed.tasks.answering import answer_rows
from deed.tasks.task import get_task
from deed.utils.files import write_json
from deed.utils.timing import machine, versions

CHECKPOINTS = Path(__file__).parents[1] / "src" / "deed" / "checkpoints"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--models", nargs="*", default=["g2p", "latr"])
    parser.add_argument("--count", type=int, default=1000, help="inputs of each set")
    parser.add_argument(
        "--debian", type=Path, default=None, help="folder of fetched packages, else none are asked about"
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/drift.json"))
    options = parser.parse_args()
    if options.record:
        for name in options.models:
            record(name)
        return
    started = time.time()
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "simulated": {"false_alarms": false_alarms(options.runs), "delays": delays()},
        "models": {name: real(name, options.count, options.debian) for name in options.models},
    }
    write_json(options.output, {**result, "seconds": round(time.time() - started)})


def record(name: str) -> None:
    """Write `disagreement_bound` into a shipped model's calibration, as `deed calibrate` does since it counts them."""
    folder, started = CHECKPOINTS / name, time.time()
    task = get_task({"g2p": "g2p", "latr": "pages", "ofa": "scenes-refer"}[name], {"g2p": "t5"}.get(name, name))
    model, processor = task.load(folder)
    report = model.deed_config.calibration
    rows = [task.row(processor, x) for x in task.examples(task.calibration_split, report["examples"])]
    options = task.generation_options(model, processor)
    early, full = (generate_all(model, rows, t, 64, options)[0] for t in (report["threshold"], NEVER_EXIT))
    differ = sum(e != f for e, f in zip(early, full, strict=True))
    [row] = [row for row in report["tested"] if row["threshold"] == report["threshold"]]
    row["disagreement"] = differ / len(rows)
    report["disagreement_bound"] = upper_bound(differ, len(rows), report["confidence"])
    save_deed_config(model, folder)
    print(f"{name}: {differ} of {len(rows)} answers differ, bound {report['disagreement_bound']:.5f}", flush=True)
    print(f"{time.time() - started:.0f} s", flush=True)


def false_alarms(
    runs: int, limits: Iterable[float] = (0.005, 0.01, 0.05), length: int = 10_000
) -> list[dict[str, Any]]:
    """Runs whose losses have exactly the limit as their mean, looked at after every sample."""
    found = []
    for limit in limits:
        for confidence in (0.95, 0.9):
            rng, alarms = np.random.default_rng(0), 0
            for _ in range(runs):
                sequence = ConfidenceSequence(limit, confidence)
                alarms += any(sequence.add(float(loss)) for loss in rng.random(length) < limit)
            found.append(
                {"limit": limit, "confidence": confidence, "runs": runs, "samples_each": length, "alarms": alarms}
            )
            print(found[-1], flush=True)
    return found


def delays(limit: float = 0.01, runs: int = 100) -> list[dict[str, Any]]:
    """Samples until a shift is found, from the start on and after a time without one."""
    found = []
    for before in (0, 10_000):
        for share in (0.015, 0.02, 0.03, 0.05, 0.1, 0.3):
            rng, counts = np.random.default_rng(1), []
            for _ in range(runs if before == 0 else runs // 5):
                sequence = ConfidenceSequence(limit)
                for loss in rng.random(before) < limit / 2:
                    sequence.add(float(loss))
                while not sequence.add(float(rng.random() < share)) and sequence.count < before + 50_000:
                    pass
                counts.append(sequence.count - before)
            row = {"limit": limit, "share": share, "after": before, "runs": len(counts)}
            found.append({**row, **quantiles(counts)})
            print(found[-1], flush=True)
    return found


def quantiles(counts: list[int]) -> dict[str, float]:
    return {"median": float(np.median(counts)), "p90": float(np.quantile(counts, 0.9)), "most": max(counts)}


def real(name: str, count: int, debian: Path | None) -> dict[str, Any]:
    """What the monitor of a shipped model says of several sets of inputs."""
    folder = CHECKPOINTS / name
    task = get_task({"g2p": "g2p", "latr": "pages"}[name], {"g2p": "t5", "latr": "latr"}[name])
    model, processor = task.load(folder)
    limit, sets = limit_of(model.deed_config), {}
    for title, (asked, examples) in inputs(name, task, count, debian).items():
        started, rows = time.time(), [asked.encode(processor, asked.opened(x)) for x in examples]
        early, full = (
            answer_rows(asked, model, processor, rows, exit_threshold=t).tokens
            for t in (model.deed_config.threshold, NEVER_EXIT)
        )
        losses = [disagreement(e, f) for e, f in zip(early, full, strict=True)]
        sets[title] = {"inputs": len(rows), "disagreement": float(np.mean(losses)), **orders(losses, limit)}
        print(name, title, sets[title], f"{time.time() - started:.0f} s", flush=True)
    return {"threshold": model.deed_config.threshold, "limit": limit, "confidence": 0.95, "sets": sets}


def orders(losses: list[float], limit: float, runs: int = 200, longest: int = 5000) -> dict[str, Any]:
    rng, counts = np.random.default_rng(2), []
    for _ in range(runs):
        sequence = ConfidenceSequence(limit)
        if any(sequence.add(float(loss)) for loss in rng.choice(losses, longest)):
            counts.append(sequence.count)
    return {"orders": runs, "samples_each": longest, "alarms": len(counts), **(quantiles(counts) if counts else {})}


def inputs(name: str, task: Any, count: int, debian: Path | None) -> dict[str, tuple[Any, list[Any]]]:
    """Sets of inputs: what the model is for, and what it is not."""
    rng = random.Random(0)
    test = list(task.examples("test", count))
    if name == "g2p":
        return {
            "test words": (task, test),
            "one letter replaced": (task, [replace(x, question=typo(x.question, rng)) for x in test]),
            "spelled backwards": (task, [replace(x, question=x.question[::-1]) for x in test]),
            "random letters": (task, [Example("".join(rng.choices(LETTERS, k=10)), []) for _ in test]),
        }
    sets = {
        "test pages": (task, test),
        "layouts never seen": (task, list(task.examples("unseen", count))),
        "three in ten letters misread": (task, [misread(x, rng) for x in test]),
        "easy-vqa": (get_task("easyvqa", "latr"), list(get_task("easyvqa", "latr").examples("test", count))),
    }
    if debian is not None:
        real_pages = get_task("debian", "latr")
        sets["real pages (Debian)"] = (real_pages, list(real_pages.examples("validation", count, debian)))
    return sets


def typo(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word))
    return word[:at] + rng.choice(LETTERS) + word[at + 1 :]


def misread(example: Any, rng: random.Random, share: float = 0.3) -> Any:
    """The page's words with letters replaced, as a bad scan would be read."""

    def read(text: str) -> str:
        return "".join(rng.choice(LETTERS) if c.isalnum() and rng.random() < share else c for c in text)

    return replace(example, words=[(read(text), box) for text, box in example.words])


if __name__ == "__main__":
    main()
