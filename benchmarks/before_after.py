"""Decoding speed of two source trees of deed, old and new, on one machine:

    python benchmarks/before_after.py --old /path/to/old/src --new src

Each tree has a process of its own (it imports its tree through PYTHONPATH); the two take turns, one answer at a time, each
going first every other round, so that a machine that slows down slows both. Only the ratio means anything. Measured is
`generate()` from given encoder states to a fixed number of tokens: T5 of base size with random weights, float32 and int8,
at full depth and at a mean depth of 3 of 12 with every exit checked, and the three shipped models at full depth and at a
quarter of it; batch 1 and 8. Tokens and depths of both trees are compared. The result is a JSON file.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import gc
import hashlib
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHIPPED = ("g2p", "latr", "ofa")
MODELS = ("t5-base fp32", "t5-base int8", *SHIPPED)
BATCHES = (1, 8)
DEPTHS = ("full", "mean 1/4")
TURN_MS = (
    150  # a turn takes about so long: small models answer several times, or they would waver more than they differ
)
NO_END = 2**31 - 1  # no token: answers end by their length


# -- a worker: one tree -----------------------------------------------------------------------------------------------


def worker() -> None:
    """Answers requests, one JSON value a line: what to decode and how often, to mean ms and a digest of the tokens."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not come between the answers
    import torch
    import transformers

    import deed

    transformers.utils.logging.set_verbosity_error()
    print(json.dumps({"deed": deed.__file__, "torch": torch.__version__, "transformers": transformers.__version__,
                      "threads": torch.get_num_threads()}), file=pipe, flush=True)  # fmt: skip
    name, model, states = "", None, {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["model"] != name:
            model, states = None, {}
            gc.collect()
            name, model = asked["model"], load(asked["model"])
        batch = asked["batch"]
        if batch not in states:
            states[batch] = encoded(model, batch)
        runs = [answer(model, states[batch], asked["depths"], asked["new_tokens"]) for _ in range(asked["repeats"])]
        mean = sum(run["ms"] for run in runs) / len(runs)
        print(json.dumps({**runs[-1], "ms": mean}), file=pipe, flush=True)


def load(name: str) -> Any:
    """A deed model in evaluation mode, the same weights in every tree."""
    import torch

    import deed

    if name in SHIPPED:
        return deed.from_pretrained(Path(deed.__file__).parent / "checkpoints" / name).eval()
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape, precision = name.split()
    layers, width = {"t5-base": (12, 768), "tiny": (4, 32)}[shape]
    config = T5Config(
        vocab_size=32128 if shape == "t5-base" else 100,
        d_model=width,
        d_kv=width // 12 if shape == "t5-base" else 8,
        d_ff=4 * width,
        num_heads=12 if shape == "t5-base" else 4,
        num_layers=layers,
        decoder_start_token_id=0,
    )
    base = T5ForConditionalGeneration(config)
    with torch.no_grad():  # fresh tied weights repeat their last token; so do not these
        for key, weight in base.decoder.named_parameters():
            if key.endswith("o.weight"):
                weight.mul_(4.0)
        base.decoder.final_layer_norm.weight.copy_(2.0 * torch.randint(0, 2, (width,)) - 1)
    model = deed.get_deed_model(base, deed.DeedConfig()).eval()
    return deed.quantize(model, parts=("decoder", "head")) if precision == "int8" else model


def encoded(model: Any, batch: int, source: int = 256) -> dict[str, Any]:
    """Arguments of `generate()`: the encoder's states of random tokens, on a page where the model wants boxes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    source = min(source, 16 if model.config.vocab_size < 1000 else source)
    ids = torch.randint(4, model.config.vocab_size, (batch, source), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "latr" in model.config.model_type.lower():
        corner = torch.randint(0, 900, (batch, source, 2), generator=generator)
        inputs["bbox"] = torch.cat([corner, corner + 50], -1)
    with torch.no_grad():
        states = model.get_encoder()(**inputs)
    mask = getattr(states, "attention_mask", None)
    return {"encoder_outputs": states, "attention_mask": inputs["attention_mask"] if mask is None else mask}


def answer(model: Any, inputs: dict[str, Any], depths: str, new_tokens: int) -> dict[str, Any]:
    """Milliseconds of one `generate()`, and a digest of tokens and depths."""
    import torch

    import deed

    if depths == "full":
        options: dict[str, Any] = {"exit_threshold": 2.0}
    else:
        layers = model.deed_config.exit_layers[-1]
        rows = inputs["attention_mask"].shape[0]
        options = {
            "exit_policy": deed.FixedSchedule(schedule(layers, rows, new_tokens), True)
        }  # True: check every exit
    options |= {"do_sample": False, "num_beams": 1, "max_new_tokens": new_tokens, "eos_token_id": NO_END}
    # A shallow copy each time: generate() may change what it is given.
    given = {**inputs, "encoder_outputs": copy.copy(inputs["encoder_outputs"])}
    with torch.no_grad():
        start = time.perf_counter()
        out = model.generate(**given, **options, return_dict_in_generate=True)
        ms = (time.perf_counter() - start) * 1e3
    digest = hashlib.sha256(json.dumps([out.sequences.tolist(), out.exit_layers.tolist()]).encode()).hexdigest()
    return {"ms": ms, "digest": digest, "mean_depth": float(out.exit_layers.float().mean())}


def schedule(layers: int, rows: int, steps: int) -> list[list[int]]:
    """`[rows][steps]` depths, geometric with a mean of about a quarter of the layers, the same in every run."""
    draw, p = random.Random(0), min(1.0, 4 / layers)
    weights = [(1 - p) ** depth for depth in range(layers)]
    return [draw.choices(range(1, layers + 1), weights, k=steps) for _ in range(rows)]


# -- the lead ---------------------------------------------------------------------------------------------------------


class Tree:
    """A worker that imports one tree."""

    def __init__(self, source: Path, threads: int) -> None:
        if not (source / "deed" / "__init__.py").is_file():
            raise SystemExit(f"{source} holds no deed package (pass the folder `src` of a checkout)")
        env = {**os.environ, "PYTHONPATH": str(source.absolute()), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.about = self._read()
        if not Path(self.about["deed"]).is_relative_to(source.absolute()):
            raise SystemExit(f"the worker for {source} imported {self.about['deed']} instead")

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """One answer."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with code {self.process.wait()}; its error stands above")
        return json.loads(line)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "p25": low, "p75": high}


def measure(trees: dict[str, Tree], request: dict[str, Any], rounds: int, until: float) -> dict[str, Any]:
    """Both trees on one subject, in turns, after a warm run each; fewer rounds (three at least) once time is up."""
    warm = {name: tree.run({**request, "repeats": 1}) for name, tree in trees.items()}
    repeats = max(1, min(20, int(TURN_MS / max(answer["ms"] for answer in warm.values()))))
    ms: dict[str, list[float]] = {name: [] for name in trees}
    for i in range(rounds):
        if i >= 3 and time.monotonic() > until:
            break
        for name in list(trees)[:: -1 if i % 2 else 1]:
            ms[name].append(trees[name].run({**request, "repeats": repeats})["ms"])
    steps = request["new_tokens"]
    return {
        **{k: v for k, v in request.items() if k != "new_tokens"},
        "rounds": len(ms["old"]),
        "repeats": repeats,
        "mean_depth": warm["new"]["mean_depth"],
        **{f"{name}_ms_per_token": spread([m / steps for m in values]) for name, values in ms.items()},
        "new_over_old": spread([new / old for old, new in zip(ms["old"], ms["new"], strict=True)]),
        "same_tokens_and_depths": warm["old"]["digest"] == warm["new"]["digest"],
    }


def machine() -> dict[str, Any]:
    """Processor, its instruction sets that matter here, how many are usable, load before the run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines[::-1] if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(found.get("flags", "").split())
    return {
        "processor": found.get("model name", "unknown"),
        "instruction_sets": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16"}),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--old", type=Path, help="folder `src` of the old tree")
    parser.add_argument("--new", type=Path, default=Path(__file__).parents[1] / "src", help="that of the new one")
    parser.add_argument("--models", default=",".join(MODELS), help="some of these; patterns, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, default=8.0, help="after that, three rounds a subject")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "before_after.json")
    given = parser.parse_args()
    if given.worker:
        worker()
        return
    if given.old is None or given.rounds < 1 or given.new_tokens < 2:
        parser.error("--old is needed; --rounds must be at least 1, --new-tokens at least 2")
    known = (*MODELS, "tiny fp32")
    models = [m for m in known if any(fnmatch.fnmatch(m, p.strip()) for p in given.models.split(","))]
    if not models:
        parser.error(f"--models must name some of {', '.join(MODELS)}, got {given.models!r}")
    until = time.monotonic() + 60 * given.minutes
    report: dict[str, Any] = {
        "kind": "before_after",
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "settings": {"rounds": given.rounds, "new_tokens": given.new_tokens, "threads": given.threads},
    }
    trees = {"old": Tree(given.old, given.threads), "new": Tree(given.new, given.threads)}
    report["versions"] = {name: tree.about for name, tree in trees.items()}
    report["rows"] = []
    print(f"{'':28s} {'old ms/token':>14s} {'new':>8s} {'new/old':>8s}  quartiles    tokens")
    for model in models:
        for batch in BATCHES:
            for depths in DEPTHS:
                request = {"model": model, "batch": batch, "depths": depths, "new_tokens": given.new_tokens}
                row = measure(trees, request, given.rounds, until)
                report["rows"].append(row)
                ratio = row["new_over_old"]
                print(
                    f"{model + f', batch {batch}, {depths}':28s} {row['old_ms_per_token']['median']:11.2f} "
                    f"{row['new_ms_per_token']['median']:11.2f} {ratio['median']:8.3f}  "
                    f"{ratio['p25']:.3f}-{ratio['p75']:.3f}  {'same' if row['same_tokens_and_depths'] else 'DIFFERENT'}",
                    flush=True,
                )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.output.with_name(f"{given.output.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.output)
    print(f"written: {given.output}")


if __name__ == "__main__":
    main()
