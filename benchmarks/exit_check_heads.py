"""Two changes of a float32 head that were made without a clock, each in turns with what it replaced: T5-base's shape, batch 1.

    python benchmarks/exit_check_heads.py [--seconds 30]

"plain by bounds": the plain check of an exit goes by an int8 copy of the head and bounds on its error first, the head itself
is for rows that may leave (mean depth 3, a check at every exit passed). "fp32, int8 head": `deed.quantize(model,
parts=["head"])` beside float32, whose greedy search reads an int8 copy as well (full depth, and mean depth 3 with gates).
Writes results/exit_check_heads.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from deed.bench.shapes import make_workload
from deed.bench.subjects import Subject, deed
from deed.policies.exit_checks import build
from deed.utils.timing import machine, versions

OUTPUT = Path(__file__).parent / "results" / "exit_check_heads.json"
TOKENS = 32


def measured(
    subjects: dict[str, tuple[Subject, Any]], seconds: float
) -> tuple[dict[str, list[float]], dict[str, torch.Tensor], int]:
    """Milliseconds per step of each subject round by round, its tokens, and the number of rounds."""
    usual = build._reads_less_by_a_copy
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    tokens: dict[str, torch.Tensor] = {}
    names, rounds, start = list(subjects), 0, 0.0
    while rounds < 3 or time.perf_counter() - start < seconds:
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            subject, build._reads_less_by_a_copy = subjects[name]
            timing = subject.run()
            tokens[name] = timing.tokens
            if rounds:  # the first warms up
                taken[name].append(timing.step_ms)
        rounds += 1
        start = start or time.perf_counter()
    build._reads_less_by_a_copy = usual
    return taken, tokens, rounds


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    work = make_workload("t5-base", 1, TOKENS, Path(tempfile.gettempdir()))
    work.encodes = False
    usual = build._reads_less_by_a_copy
    subjects: dict[str, tuple[Subject, Any]] = {
        "fp32, plain by bounds": (deed(work, "fp32", mean=3.0, exit_check="plain"), usual),
        "fp32, plain by the whole head": (deed(work, "fp32", mean=3.0, exit_check="plain"), lambda model: False),
        "fp32, int8 head, plain": (deed(work, "fp32, int8 head", mean=3.0, exit_check="plain"), usual),
        "fp32, gates": (deed(work, "fp32", mean=3.0, exit_check="gate"), usual),
        "fp32, int8 head, gates": (deed(work, "fp32, int8 head", mean=3.0, exit_check="gate"), usual),
        "fp32, full depth": (deed(work, "fp32"), usual),
        "fp32, int8 head, full depth": (deed(work, "fp32, int8 head"), usual),
    }
    taken, tokens, rounds = measured(subjects, given.seconds)
    names = list(subjects)
    assert torch.equal(tokens["fp32, plain by bounds"], tokens["fp32, plain by the whole head"])

    def over(a: str, b: str) -> dict[str, float]:
        low, middle, high = statistics.quantiles([x / y for x, y in zip(taken[a], taken[b], strict=True)], n=4)
        return {"median": middle, "quartiles": [low, high], "of_least": min(taken[a]) / min(taken[b])}

    report = {
        "kind": "exit_check_heads",
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "settings": {
            "shape": "t5-base",
            "batch": 1,
            "tokens": TOKENS,
            "threads": torch.get_num_threads(),
            "rounds": rounds,
        },
        "step_ms": {name: {"median": statistics.median(t), "least": min(t)} for name, t in taken.items()},
        "ratios": {
            "plain: by bounds / by the whole head": over(names[0], names[1]),
            "plain: int8 head / by bounds": over(names[2], names[0]),
            "gates: int8 head / float32 head": over(names[4], names[3]),
            "full depth: int8 head / float32 head": over(names[6], names[5]),
        },
    }
    print(json.dumps({k: report[k] for k in ("load", "step_ms", "ratios")}, indent=1))
    temporary = given.output.with_name(f"{given.output.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.output)


if __name__ == "__main__":
    main()
