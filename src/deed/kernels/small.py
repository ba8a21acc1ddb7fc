"""float32 linears with few weights, in the processor's caches: MKL for few rows, where oneDNN's call costs more than it saves;
for long blocks (an encoder's) the faster of the two, which on a Zen 5 is oneDNN by a factor of two."""

from __future__ import annotations

import functools
import os

import torch

from .choosing import LIMITS, VARIABLE, forced, measure, measuring
from .contract import Linear
from .float32 import ONEDNN, PLAIN

# Below, a call takes longer than a product even for a long block.
LEAST_WEIGHTS = 2**14


def small_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The function from `[…, in]` to `[…, out]` for a `weight` `[out, in]` of fewer than `float32.MIN_WEIGHTS` numbers."""
    few = PLAIN.prepare(weight, bias)
    if weight.numel() < LEAST_WEIGHTS or not _known_to_onednn(weight):
        return few
    if not _faster_by_onednn(*weight.shape, os.environ.get(VARIABLE, ""), torch.get_num_threads()):
        return few
    block = ONEDNN.prepare(weight, bias)
    longest = LIMITS[-1]

    def run(x: torch.Tensor) -> torch.Tensor:
        return block(x) if x.numel() > longest * x.shape[-1] else few(x)

    return run


@functools.cache  # asked for every linear of every pass
def _faster_by_onednn(out_features: int, in_features: int, said: str, threads: int) -> bool:
    """Whether oneDNN is faster for a long block; `said` and `threads` are what the answer depends on."""
    chosen = forced((PLAIN, ONEDNN))
    if chosen is not None or not measuring():
        return chosen is not PLAIN
    times = measure(out_features, in_features, (PLAIN, ONEDNN))
    return times[ONEDNN.name][-1] < times[PLAIN.name][-1]


def _known_to_onednn(weight: torch.Tensor) -> bool:
    usable = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()
    return usable and plain and hasattr(torch.ops.mkldnn, "_linear_pointwise")
