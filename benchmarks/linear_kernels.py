"""Linears of a few rows by every kernel of `deed.kernels`, those included that are only taken when `DEED_KERNELS` names them;
natively and restricted to AVX2.

    python benchmarks/linear_kernels.py                 # both settings, each in a process of its own
    python benchmarks/linear_kernels.py --settings avx2 --rows 1 8

Per shape `[out, in]` and number of rows: microseconds of a call, the least of interleaved rounds. There are as many matrices
as no cache holds (of the shipped models' few as one of their layers has), since in a decoding step weights come from memory.
`ours_to_fbgemm` is the time of our int8 kernel by FBGEMM's: what is lost once PyTorch drops its quantised dtypes, if above 1.

Writes benchmarks/results/linear_kernels.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "results" / "linear_kernels.json"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
}
SETTINGS: dict[str, dict[str, str]] = {"native": {}, "avx2": AVX2}
SHAPES = {
    "shipped (g2p, LaTr++: 128 wide)": [(128, 128), (384, 128), (512, 128), (128, 512)],
    "T5-base and BART-base": [(768, 768), (2304, 768), (3072, 768), (768, 3072)],
    "head of T5-base": [(32128, 768)],
}
ROWS = (1, 4, 8, 32, 256)
SLOW = 20_000  # microseconds: where a first call takes longer, a kernel has only that one


def work(rows: list[int], seconds: float, groups: list[str]) -> dict[str, Any]:
    """All shapes in this process."""
    import torch

    from deed.kernels import native
    from deed.kernels.choosing import RING, measuring
    from deed.kernels.float32 import KERNELS, candidates
    from deed.kernels.int8 import contract, exact_kernels, is_exact
    from deed.kernels.weight_only import Fp16Weights, Int4Weights, WeightOnly
    from deed.utils.timing import machine

    assert measuring()
    found = [contract(*one) for one in exact_kernels()]
    for build in (WeightOnly, Fp16Weights, Int4Weights):
        if build is Int4Weights or is_exact(build, 127):
            found.append(contract(build, 127))
    table = []
    for group in groups:
        for out, width in SHAPES[group]:
            count = max(4, min(32, math.ceil(RING / (4 * out * width)))) if group.startswith("T5") else 4
            count = 1 if out > 10**4 else count
            weights = [torch.randn(out, width) for _ in range(count)]
            kernels = [k for k in (*KERNELS, *found) if k.name != "native" or k in candidates(width)]
            prepared = {k.name: [k.prepare(w, None) for w in weights] for k in kernels}
            for n in rows:
                table.append({"shape": [out, width], "rows": n, "microseconds": timed(prepared, n, width, seconds)})
                print(table[-1], file=sys.stderr, flush=True)
    about = {"machine": machine(), "instruction_set_of_deed": native.instruction_set()}
    return {**about, "rows": table, "feed_forward": [feed_forward(n, seconds) for n in rows if n <= 32]}


def feed_forward(rows: int, seconds: float) -> dict[str, Any]:
    """T5-base's: norm, 768 to 3072, ReLU, back, residual sum; as one call and by PyTorch's operations. And what a call itself
    takes: a linear of 16 x 16."""
    import torch
    from torch import nn

    from deed.kernels import Link, RowNorm, chain
    from deed.kernels.int8 import exact_kernels
    from deed.kernels.int8_linear import Int8Linear

    subjects: dict[str, list[Any]] = {}
    for _ in range(8):
        up, down = nn.Linear(768, 3072, bias=False), nn.Linear(3072, 768, bias=False)
        kinds = {f"int8 {build.__name__}": (build, levels) for build, levels in exact_kernels()[:2]}
        for name, product in {"float32": None, **kinds}.items():
            a, b = (
                (up, down) if product is None else (Int8Linear(up, product=product), Int8Linear(down, product=product))
            )
            norm = RowNorm("rms", torch.ones(768))
            run = chain([Link(a, activation="relu", before=norm), Link(b, "residual")])
            if run.native:
                subjects.setdefault(f"{name}, one call", []).append(run)
            subjects.setdefault(f"{name}, operations", []).append(run.by_torch)
    times = timed(subjects, rows, 768, seconds)
    small = nn.Linear(16, 16, bias=False)
    calls = {"native": [chain([Link(small)])], "linear": [lambda x: nn.functional.linear(x, small.weight)]}
    return {"rows": rows, "microseconds": times, "one small call": timed(calls, 1, 16, 0.05)}


def timed(prepared: dict[str, list[Any]], rows: int, width: int, seconds: float) -> dict[str, float]:
    """Microseconds of a call per kernel."""
    import torch

    x = torch.randn(1, rows, width)
    best: dict[str, float] = {}
    dropped: set[str] = set()
    end = time.perf_counter() + seconds
    turn = 0
    while turn < 4 or time.perf_counter() < end:
        for name, linears in prepared.items():
            if name in dropped:
                continue
            calls = [linears[(turn * 2 + i) % len(linears)] for i in range(2)]
            start = time.perf_counter()
            for run in calls:
                run(x)
            taken = (time.perf_counter() - start) / len(calls) * 1e6
            best[name] = min(best.get(name, math.inf), taken)
            if taken > SLOW and turn > 0:
                dropped.add(name)
        turn += 1
    return {name: round(value, 1) for name, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=0.5, help="per shape and number of rows")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        import torch

        with torch.inference_mode():
            print(json.dumps(work(options.rows, options.seconds, options.shapes)))
        return

    from deed.utils.timing import versions

    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d")}
    result |= {"versions": versions(), "settings": {}}
    for setting in options.settings:
        names = {name for values in SETTINGS.values() for name in values} | {"DEED_KERNELS", "DEED_NATIVE"}
        env = {k: v for k, v in os.environ.items() if k not in names} | SETTINGS[setting] | {"DEED_KERNELS": ""}
        worker = [sys.executable, __file__, "--worker", "--seconds", str(options.seconds)]
        worker += ["--rows", *map(str, options.rows), "--shapes", *options.shapes]
        done = subprocess.run(worker, env=env, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout)
        for row in measured["rows"]:
            ours = row["microseconds"].get("native_int8_at_127")
            theirs = next((v for k, v in row["microseconds"].items() if k.startswith("fbgemm")), None)
            row["ours_to_fbgemm"] = round(ours / theirs, 2) if ours and theirs else None
        result["settings"][setting] = {"variables": SETTINGS[setting], **measured}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)


if __name__ == "__main__":
    main()
