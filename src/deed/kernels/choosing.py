"""Which kernel runs a linear of some shape here: measured once per machine, or said by `DEED_KERNELS`.

`DEED_KERNELS`:
    unset or "measured"   time the candidates on first use, tens of milliseconds per shape, kept on disk (`cache.py`)
    "fixed"               no clock, the same on every run: the native kernels, where they were built, with oneDNN for long
                          blocks in float32; else oneDNN, and the first exact kernel for int8
    names                 "plain", "onednn", "native", "transposed", "packed" for float32; "native_int8", "fbgemm", "int_mm",
                          "weight_only", "fp16_weights", "int4_weights" for int8; separated by commas. A side that is not
                          named is measured. "transposed" and "packed" keep a second copy of every large weight; one that is
                          written to through `.data` keeps its old copy. The last three are only taken when named.
                          "fp16_weights" is refused where its rows are not independent (AVX2).

Two processes with other times may differ in float32 by rounding; "fixed" excludes that. A kernel whose rows depend on the rows
beside them is not taken for int8 (`rows_are_independent`): there a rounding error can be a step of 1/127.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Sequence

import torch

from . import cache
from .contract import Kernel, Linear

VARIABLE = "DEED_KERNELS"
WORDS = ("measured", "fixed")
FLOAT32_NAMES = ("plain", "onednn", "native", "transposed", "packed")
INT8_NAMES = ("native_int8", "fbgemm", "int_mm", "weight_only", "fp16_weights", "int4_weights")
NAMES = (*FLOAT32_NAMES, *INT8_NAMES)

# Numbers of rows that are timed: one sequence, few, a batch, a long block. Others use the nearest on a logarithmic scale.
ROWS = (1, 4, 8, 64)
LIMITS = (2, 5, 22)
# Weights are taken in turn out of as many as no cache holds, since in a decoding step they come from memory.
RING = 2**26  # bytes
# Rounds until the least time of every kernel was seen twice (to `SETTLED`), so that a busy moment decides nothing.
LEAST_ROUNDS, MOST_ROUNDS, CALLS = 5, 25, 2
SETTLED = 1.15
PATIENCE = 1.0  # seconds, then what there is has to do for this process, and is not kept on disk
RETRIES = 2  # measurements more where times do not settle, or cannot be a kernel's own
BUDGET = 4.0  # seconds that a process gives to those: a model has dozens of sizes, and its user waits
# Reading weights slower than this, in bytes a second, is waiting for the processor: where another program keeps it busy, a
# call with two threads takes as long as that program's turns, each time and whatever the kernel.
STALLED = 5e8
SMALL = 2**17  # weights, below which that says nothing
# An int8 kernel is refused where it loses to float32 by more than so much.
LOSES = 1.1
# A kernel has to be faster by so much to be preferred to an earlier one in the list.
MARGIN = 0.95
# Rows that stand in blocks of these sizes, from the first row on, are compared with each alone.
BLOCKS = (2, 3, 5, 8, 23, 64)

Times = dict[str, tuple[float, ...]]

_times: dict[str, Times] = {}
_doubtful: set[str] = set()
_spent = [0.0]  # seconds, on measurements more
_lock = threading.RLock()


def fastest(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The fastest kernel for each number of rows in `ROWS`; the first one where nothing is timed.

    Args:
        out_features: size of the output.
        in_features: size of the input.
        kernels: candidates, the preferred one first: a later one has to be faster by 5 %.
    """
    if len(kernels) == 1 or not measuring():
        return (kernels[0],) * len(ROWS)
    times = measure(out_features, in_features, kernels)
    chosen = []
    for i in range(len(ROWS)):
        best = kernels[0]
        for kernel in kernels[1:]:
            if times[kernel.name][i] < MARGIN * times[best.name][i]:
                best = kernel
        chosen.append(best)
    return tuple(chosen)


def faster(times: Times, name: str, others: Sequence[str]) -> bool:
    """Whether a kernel does not lose clearly to the best of others for any number of rows.

    Args:
        times: of `measure`.
        name: the kernel.
        others: those it is compared with.
    """
    return all(t <= LOSES * min(times[other][i] for other in others) for i, t in enumerate(times[name]))


def in_doubt(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> bool:
    """Whether `measure`, which has been called, found no times to rely on: the machine was too busy.

    Args:
        out_features: size of the output.
        in_features: size of the input.
        kernels: what was timed.
    """
    return _key(out_features, in_features, kernels) in _doubtful


def measure(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> Times:
    """Milliseconds of a call per kernel and number of rows (`ROWS`): the least of interleaved rounds. Kept for the process and
    on disk; threads that ask at once wait for the one that measures.

    Args:
        out_features: size of the output.
        in_features: size of the input.
        kernels: what to time.
    """
    key, out_features = _key(out_features, in_features, kernels), _part(out_features, in_features)
    with _lock:
        if key not in _times:
            kept = _valid(cache.read().get(key), kernels)
            if kept is None:
                kept, sure = _repeatedly(out_features, in_features, kernels)
                if sure:
                    cache.write(key, kept)
                else:
                    _doubtful.add(key)
            _times[key] = kept
        return _times[key]


def _part(out_features: int, in_features: int) -> int:
    """Of a large vocabulary a part says enough."""
    return min(out_features, max(1, RING // (4 * in_features)))


def _key(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> str:
    names = ",".join(kernel.name for kernel in kernels)
    return f"{_part(out_features, in_features)}x{in_features} {names} threads={torch.get_num_threads()}"


def _repeatedly(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> tuple[Times, bool]:
    """The least times of a measurement, or of some where a busy machine disturbs them; and whether they can be relied on."""
    least: Times = {}
    for attempt in range(1 + RETRIES):
        if attempt and _spent[0] > BUDGET:
            break
        started = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():
            found, settled = _measure(out_features, in_features, kernels)
        if attempt:
            _spent[0] += time.perf_counter() - started
        least = {name: tuple(map(min, least.get(name, row), row)) for name, row in found.items()}
        fastest_row = min(row[0] for row in least.values()) / 1e3
        if settled and out_features * in_features >= STALLED * fastest_row:
            return least, True
        if out_features * in_features < SMALL:  # a call takes longer than its weights
            return least, settled
    return least, False


def _valid(entry: object, kernels: Sequence[Kernel]) -> Times | None:
    if not isinstance(entry, dict) or set(entry) != {kernel.name for kernel in kernels}:
        return None
    rows = [row for row in entry.values() if isinstance(row, list) and len(row) == len(ROWS)]
    good = len(rows) == len(entry) and all(isinstance(t, float) and 0 < t < math.inf for row in rows for t in row)
    return {name: tuple(row) for name, row in entry.items()} if good else None


def _measure(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> tuple[Times, bool]:
    """The times, and whether they settled."""
    count = math.ceil(RING / (4 * out_features * in_features))
    weights = torch.full((count, out_features, in_features), 0.5)
    prepared = [[kernel.prepare(weight, None) for weight in weights] for kernel in kernels]
    inputs = [torch.full((1, rows, in_features), 0.5) for rows in ROWS]
    least = [[(math.inf, math.inf)] * len(ROWS) for _ in kernels]
    turn = itertools.cycle(range(count))
    started = time.perf_counter()
    settled = False
    for attempt in range(MOST_ROUNDS):
        for i, x in enumerate(inputs):
            for k, linears in enumerate(prepared):
                first, second = least[k][i]
                if attempt >= LEAST_ROUNDS and second <= SETTLED * first:
                    continue
                order = [next(turn) for _ in range(CALLS)]
                start = time.perf_counter()
                for j in order:
                    linears[j](x)
                taken = (time.perf_counter() - start) / CALLS * 1e3
                if attempt:  # the first round warms up
                    least[k][i] = (min(first, taken), min(second, max(first, taken)))
        settled = all(second <= SETTLED * first for row in least for first, second in row)
        if attempt + 1 >= LEAST_ROUNDS and (settled or time.perf_counter() - started > PATIENCE):
            break
    return {kernel.name: tuple(first for first, _ in least[k]) for k, kernel in enumerate(kernels)}, settled


def rows_are_independent(kernel: Kernel, out_features: int, in_features: int) -> bool:
    """Whether a row of a block is bit for bit what that row alone is, for all numbers of rows in `BLOCKS`.

    Args:
        kernel: which.
        out_features: size of the output.
        in_features: size of the input.
    """
    generator = torch.Generator().manual_seed(0)
    out_features = min(out_features, 256)  # rows, not outputs, are what kernels differ by
    weight = torch.randn(out_features, in_features, generator=generator)
    x = torch.randn(max(BLOCKS), in_features, generator=generator)
    x *= torch.logspace(-2, 2, len(x))[:, None]
    with torch.inference_mode(False), torch.no_grad():
        run = kernel.prepare(weight, None)
        alone = torch.cat([run(row[None]) for row in x])
        return all(torch.equal(run(x[:rows]), alone[:rows]) for rows in BLOCKS)


def for_rows(chosen: Sequence[Kernel], weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """One function out of a kernel per entry of `ROWS`.

    Args:
        chosen: of `fastest`.
        weight: `[out, in]`.
        bias: `[out]` or None.
    """
    prepared = {kernel.name: kernel.prepare(weight, bias) for kernel in chosen}
    if len(prepared) == 1:
        return prepared[chosen[0].name]
    functions = [prepared[kernel.name] for kernel in chosen]

    def run(x: torch.Tensor) -> torch.Tensor:
        return functions[row_class(x.numel() // x.shape[-1])](x)

    return run


def row_class(rows: int) -> int:
    """Which entry of `ROWS` stands for this number of rows."""
    if rows <= LIMITS[0]:
        return 0
    return 1 if rows <= LIMITS[1] else 2 if rows <= LIMITS[2] else 3


def measuring() -> bool:
    """Whether kernels are timed (`DEED_KERNELS`)."""
    return "fixed" not in _named()


def forced(kernels: Sequence[Kernel]) -> Kernel | None:
    """The one of `kernels` that `DEED_KERNELS` names, if any."""
    named = _named()
    return next((kernel for kernel in kernels if kernel.name.split("_at_")[0] in named), None)


def _named() -> list[str]:
    """What `DEED_KERNELS` says.

    Raises:
        ValueError: an unknown name.
    """
    text = os.environ.get(VARIABLE, "")
    named = [name.strip() for name in text.split(",") if name.strip()]
    if set(named) - {*WORDS, *NAMES}:
        raise ValueError(f"{VARIABLE}={text!r}: use {' or '.join(WORDS)}, or names out of {', '.join(NAMES)}")
    return named
