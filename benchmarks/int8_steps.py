"""Milliseconds per decoding step in float32 and int8, natively and restricted to AVX2, beside another state of the code.

    python benchmarks/int8_steps.py --old /path/to/older/src

T5-base's decoder (12 layers, 768 wide, 32128 words, random weights), one encoder layer, 16 tokens of source; batch 1 and 8;
full depth, and a schedule with mean depth 3 of 12 that asks at each exit. One process per state of the code and set of
variables, each with its own import of deed; rounds alternate between the processes, so that a busy minute hits all alike.
FBGEMM follows none of the other three variables, so there are two restricted settings, with its own and without. On a
processor that has VNNI `_int_mm` goes to oneDNN even when restricted, and is then not exact; on one that has none it is
PyTorch's own loop, exact and slow. "no oneDNN" switches oneDNN off in PyTorch, which gives that loop (and float32 by MKL).
A median is of `--rounds` runs; "least" is the best of them, what to read on a busy machine.

Writes benchmarks/results/int8_steps.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
OUTPUT = Path(__file__).parent / "results" / "int8_steps.json"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
NO_ONEDNN = "INT8_STEPS_NO_ONEDNN"
SETTINGS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2, fbgemm native": AVX2,
    "avx2": {**AVX2, "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx2, no oneDNN": {**AVX2, "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", NO_ONEDNN: "1"},
}
DEPTHS = {"full depth": [12], "mean depth 3 of 12": [1, 2, 2, 1, 3, 2, 4, 9]}
CASES = [(batch, depth) for batch in (1, 8) for depth in DEPTHS]


def work(steps: int) -> None:
    """A worker: says what it is, then answers each line `precision batch depth` with milliseconds per step."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    import deed

    if NO_ONEDNN in os.environ:
        torch.backends.mkldnn.enabled = False

    def build() -> Any:
        torch.manual_seed(0)
        sizes = {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_heads": 12, "vocab_size": 32128}
        config = T5Config(**sizes, num_layers=1, num_decoder_layers=12, decoder_start_token_id=0)
        return deed.get_deed_model(T5ForConditionalGeneration(config).eval())

    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        models = {"float32": build(), "int8": deed.quantize(build())}
    heard = [str(w.message) for w in said if "int8" in str(w.message)]
    about = {"quantized": models["int8"].deed_quantized, "warnings": heard, "threads": torch.get_num_threads()}
    print(json.dumps({**about, "seconds_to_build_both": round(time.perf_counter() - started, 1)}), flush=True)
    for line in sys.stdin:
        precision, batch, depth = line.rstrip("\n").split(" ", 2)
        ids = torch.randint(3, 32000, (int(batch), 16), generator=torch.Generator().manual_seed(0))
        policy = deed.FixedSchedule(DEPTHS[depth], ask=depth != "full depth")
        options = {"policy": policy, "max_new_tokens": steps, "min_new_tokens": steps}
        started = time.perf_counter()
        models[precision].generate(ids, attention_mask=torch.ones_like(ids), **options)
        print((time.perf_counter() - started) / steps * 1e3, flush=True)


class Worker:
    """A process with one state of the code under one set of variables."""

    def __init__(self, source: Path, variables: dict[str, str], steps: int) -> None:
        names = [name for setting in SETTINGS.values() for name in setting]
        env = {k: v for k, v in os.environ.items() if k not in names} | variables | {"PYTHONPATH": str(source)}
        command = [sys.executable, __file__, "--worker", "--steps", str(steps)]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        return line

    def ask(self, precision: str, batch: int, depth: str) -> float:
        """Milliseconds per step of one generation."""
        assert self.process.stdin is not None
        print(precision, batch, depth, file=self.process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(setting: str, sources: dict[str, Path], rounds: int, steps: int) -> dict[str, Any]:
    """All cases under one set of variables."""
    workers = {name: Worker(source, SETTINGS[setting], steps) for name, source in sources.items()}
    taken: dict[tuple[str, str, int, str], list[float]] = {}
    try:
        for i in range(rounds + 1):
            for batch, depth in CASES:
                subjects = [(name, precision) for name in workers for precision in ("float32", "int8")]
                for name, precision in subjects[i % len(subjects) :] + subjects[: i % len(subjects)]:
                    value = workers[name].ask(precision, batch, depth)
                    if i:  # the first round warms up
                        taken.setdefault((name, precision, batch, depth), []).append(value)
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for (name, precision, batch, depth), values in taken.items():
        figures = {"median_ms": round(statistics.median(values), 2), "least_ms": round(min(values), 2)}
        rows.append({"code": name, "precision": precision, "batch": batch, "depth": depth, **figures})
        print(f"{setting:20} {name:4} {precision:8} batch {batch} {depth:19}", figures, flush=True)
    return {"variables": SETTINGS[setting], "workers": {n: w.about for n, w in workers.items()}, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="src folder of an older state, measured beside this one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.steps)
        return

    from deed.utils.timing import machine, versions

    sources = {**({"old": options.old.resolve()} if options.old else {}), "now": SOURCE}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "settings": {s: measure(s, sources, options.rounds, options.steps) for s in options.settings},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)


if __name__ == "__main__":
    main()
