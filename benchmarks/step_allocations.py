"""What a decoding step allocates, and what that costs: models by shape with random weights, full depth and mean depth 3.

    python benchmarks/step_allocations.py [--cases t5-base:int8 t5-base:fp32 g2p:fp32] [--rows 1,8] [--seconds 4]

Counted by PyTorch's profiler over the steps of one answer, the first three left out. Three figures say what they cost:
`malloc` and `free` of the same sizes in the same order; the same by `torch.empty` (calls through Python included, which
an operation that writes into a given tensor needs as well); and steps, in turns with and without reuse of the native
calls' outputs (a ring of buffers by shape, fit for this measurement only: nothing else may hold on to them). Writes
results/step_allocations.json.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shlex
import statistics
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import deed
from deed.bench.schedules import geometric_schedule
from deed.bench.shapes import build, shape_of
from deed.engine.cache import StaircaseCache
from deed.engine.step import decode_greedily
from deed.kernels.native import runs
from deed.policies.policy import FixedSchedule
from deed.utils.timing import machine, versions

OUTPUT = Path(__file__).parent / "results" / "step_allocations.json"
SOURCE, STEPS, WARM = 256, 24, 3
RING = 8  # buffers of one shape


def begun(model: Any, rows: int, mean: float | None) -> tuple[StaircaseCache, torch.Tensor]:
    """A generation before its first step, and its first tokens."""
    from transformers.modeling_outputs import BaseModelOutput

    family = model.deed_family
    layers = len(family.layers(model))
    states = torch.randn(rows, SOURCE, family.d_model(model), generator=torch.Generator().manual_seed(0))
    depths = [[layers] * STEPS] * rows if mean is None else geometric_schedule(mean, layers, rows, STEPS)
    cache = StaircaseCache(layers, FixedSchedule(depths))
    cache.begin(model, BaseModelOutput(last_hidden_state=states), max_length=STEPS + 2)
    return cache, torch.zeros(rows, 1, dtype=torch.long)


def steps(model: Any, rows: int, mean: float | None) -> float:
    """Milliseconds of a step, the median of an answer's; cross keys and values of all layers are there before."""
    cache, token = begun(model, rows, mean)
    found = []
    for _ in range(STEPS):
        start = time.perf_counter()
        token = decode_greedily(cache, token)
        found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found[WARM:])


def allocations(model: Any, rows: int, mean: float | None) -> tuple[list[int], Counter[str]]:
    """Bytes of each allocation of the steps counted, in order; and how many each operation made."""
    cache, token = begun(model, rows, mean)
    for _ in range(WARM):
        token = decode_greedily(cache, token)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(STEPS - WARM):
            token = decode_greedily(cache, token)
    sizes, names = [], Counter[str]()
    events = profile.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    waiting = [(event, "python") for event in reversed(events)]
    while waiting:
        event, name = waiting.pop()
        own = event.name if event.tag == torch._C._profiler._EventType.TorchOp else name
        if event.tag == torch._C._profiler._EventType.Allocation and event.typed[1].alloc_size > 0:
            sizes.append(event.typed[1].alloc_size)
            names[name] += 1
        waiting += [(child, own) for child in reversed(event.children)]
    return sizes, names


def by_malloc(sizes: list[int]) -> float:
    """Microseconds of `posix_memalign` and `free` of all sizes, what calling through ctypes costs taken off."""
    library = ctypes.CDLL(None)
    at = ctypes.c_void_p()

    def once(sizes: list[int]) -> float:
        start = time.perf_counter()
        for size in sizes:
            library.posix_memalign(ctypes.byref(at), 64, size)
            library.free(at)
        return (time.perf_counter() - start) * 1e6

    def calls(count: int) -> float:
        nothing = library.free
        start = time.perf_counter()
        for _ in range(2 * count):
            nothing(None)
        return (time.perf_counter() - start) * 1e6

    library.free.argtypes = [ctypes.c_void_p]
    library.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    return max(0.0, min(once(sizes) for _ in range(7)) - min(calls(len(sizes)) for _ in range(7)))


def by_empty(sizes: list[int]) -> float:
    """Microseconds of `torch.empty` of all sizes."""

    def once() -> float:
        start = time.perf_counter()
        for size in sizes:
            torch.empty(size, dtype=torch.uint8)
        return (time.perf_counter() - start) * 1e6

    return min(once() for _ in range(7))


class Reusing:
    """In place of `torch` in the module that calls the native library: outputs come out of rings of buffers."""

    def __init__(self) -> None:
        self.rings: dict[tuple[int, ...], tuple[list[torch.Tensor], list[int]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, shape: Any, **options: Any) -> torch.Tensor:
        """One of the ring of its shape."""
        key = tuple(shape)
        if key not in self.rings:
            self.rings[key] = ([torch.empty(key, **options) for _ in range(RING)], [0])
        ring, at = self.rings[key]
        at[0] = (at[0] + 1) % RING
        return ring[at[0]]

    def empty_like(self, x: torch.Tensor) -> torch.Tensor:
        """As `empty`."""
        return self.empty(x.shape, dtype=x.dtype)


@torch.inference_mode()
def measured(model: Any, rows: int, mean: float | None, seconds: float) -> dict[str, Any]:
    """The figures of one case."""
    sizes, names = allocations(model, rows, mean)
    count = STEPS - WARM
    taken: dict[str, list[float]] = {"allocates": [], "reuses": []}
    reusing, start = Reusing(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        for name, module in (("allocates", torch), ("reuses", reusing)):
            runs.torch = module  # type: ignore[attr-defined]
            taken[name].append(steps(model, rows, mean))
    runs.torch = torch  # type: ignore[attr-defined]
    pairs = zip(taken["allocates"], taken["reuses"], strict=True)
    return {
        "allocations_per_step": len(sizes) / count,
        "kilobytes_per_step": sum(sizes) / count / 1e3,
        "largest_kilobytes": max(sizes) / 1e3,
        "by": {name: round(n / count, 2) for name, n in names.most_common(12)},
        "malloc_us_per_step": by_malloc(sizes) / count,
        "empty_us_per_step": by_empty(sizes) / count,
        "step_ms": statistics.median(taken["allocates"]),
        "step_reusing_ms": statistics.median(taken["reuses"]),
        "reusing_over_allocating": statistics.median(b / a for a, b in pairs),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["t5-base:int8", "t5-base:fp32", "g2p:fp32"])
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--seconds", type=float, default=4, help="of steps in turns, per case")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    found = []
    for case in given.cases:
        shape, precision = case.split(":")
        _, model = build(shape_of(shape))
        if precision == "int8":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = deed.quantize(model, parts=("decoder", "head"))
        layers = len(model.deed_family.layers(model))
        for rows in map(int, given.rows.split(",")):
            for mean in (None, 3.0 * layers / 12):
                row = {"shape": shape, "precision": precision, "batch": rows, "mean_depth": mean or layers}
                row.update(measured(model, rows, mean, given.seconds))
                found.append(row)
                print(json.dumps({k: v for k, v in row.items() if k != "by"}), flush=True)
    report = {
        "kind": "step_allocations",
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "settings": {"source": SOURCE, "steps": STEPS, "threads": torch.get_num_threads()},
        "rows": found,
    }
    temporary = given.output.with_name(f"{given.output.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.output)


if __name__ == "__main__":
    main()
