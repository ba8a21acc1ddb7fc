"""Which kernel runs a linear of some shape here: measured once per process, or said by `DEED_KERNELS`.

`DEED_KERNELS`:
    unset or "measured"   time the candidates on first use, tens of milliseconds per shape
    "fixed"               no clock: oneDNN for float32, the first exact kernel for int8; the same on every run
    names                 "plain", "onednn", "transposed", "packed" for float32; "fbgemm", "int_mm" for int8; separated by
                          commas. A side that is not named is measured. "transposed" and "packed" keep a second copy
                          of every large weight; one that is written to through `.data` keeps its old copy.

Timings are kept per process, shape, candidates and number of threads, not on disk: they hold for the load and the
instruction sets of the moment. Two processes may thus differ in float32 by rounding; "fixed" excludes that.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Sequence

import torch

from .contract import Kernel, Linear

VARIABLE = "DEED_KERNELS"
WORDS = ("measured", "fixed")
NAMES = ("plain", "onednn", "transposed", "packed", "fbgemm", "int_mm")

# Numbers of rows that are timed: one sequence, few, a batch, a long block. Others use the nearest on a logarithmic scale.
ROWS = (1, 4, 8, 64)
LIMITS = (2, 5, 22)
# Weights are taken in turn out of as many as no cache holds, since in a decoding step they come from memory.
RING = 2**26  # bytes
ROUNDS, CALLS = 5, 2
# A kernel has to be faster by so much to be preferred to an earlier one in the list.
MARGIN = 0.95

Times = dict[str, tuple[float, ...]]

_times: dict[tuple[int, int, tuple[str, ...], int], Times] = {}
_lock = threading.RLock()


def choose(
    out_features: int, in_features: int, kernels: Sequence[Kernel], fallback: Kernel | None = None
) -> tuple[Kernel, ...]:
    """The fastest kernel for each number of rows in `ROWS`.

    Args:
        out_features: size of the output.
        in_features: size of the input.
        kernels: candidates, the preferred one first: a later one has to be faster by 5 %.
        fallback: what is taken where timing is off and it is a candidate; the first one if not given.
    """
    if len(kernels) == 1 or not measuring():
        return (kernels[0] if fallback is None or fallback not in kernels else fallback,) * len(ROWS)
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
    """Whether a kernel is as fast as the best of others or faster for every number of rows.

    Args:
        times: of `measure`.
        name: the kernel.
        others: those it is compared with.
    """
    return all(t <= min(times[other][i] for other in others) for i, t in enumerate(times[name]))


def measure(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> Times:
    """Milliseconds of a call per kernel and number of rows (`ROWS`): the least of interleaved rounds.

    Args:
        out_features: size of the output.
        in_features: size of the input.
        kernels: what to time.
    """
    out_features = min(out_features, max(1, RING // (4 * in_features)))  # of a large vocabulary a part says enough
    key = (out_features, in_features, tuple(kernel.name for kernel in kernels), torch.get_num_threads())
    with _lock:
        if key not in _times:
            with torch.inference_mode(False), torch.no_grad():
                _times[key] = _measure(out_features, in_features, kernels)
        return _times[key]


def _measure(out_features: int, in_features: int, kernels: Sequence[Kernel]) -> Times:
    count = math.ceil(RING / (4 * out_features * in_features))
    weights = torch.full((count, out_features, in_features), 0.5)
    prepared = [[kernel.prepare(weight, None) for weight in weights] for kernel in kernels]
    inputs = [torch.full((1, rows, in_features), 0.5) for rows in ROWS]
    best = [[math.inf] * len(ROWS) for _ in kernels]
    turn = itertools.cycle(range(count))
    for attempt in range(ROUNDS):
        for i, x in enumerate(inputs):
            for k, linears in enumerate(prepared):
                order = [next(turn) for _ in range(CALLS)]
                start = time.perf_counter()
                for j in order:
                    linears[j](x)
                taken = (time.perf_counter() - start) / CALLS * 1e3
                if attempt:  # the first round warms up
                    best[k][i] = min(best[k][i], taken)
    return {kernel.name: tuple(best[k]) for k, kernel in enumerate(kernels)}


def for_rows(chosen: Sequence[Kernel], weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """One function out of a kernel per entry of `ROWS`.

    Args:
        chosen: of `choose`.
        weight: `[out, in]`.
        bias: `[out]` or None.
    """
    prepared = {kernel.name: kernel.prepare(weight, bias) for kernel in chosen}
    if len(prepared) == 1:
        return prepared[chosen[0].name]
    one, few, batch, block = (prepared[kernel.name] for kernel in chosen)

    def run(x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if rows <= LIMITS[0]:
            return one(x)
        return few(x) if rows <= LIMITS[1] else batch(x) if rows <= LIMITS[2] else block(x)

    return run


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
