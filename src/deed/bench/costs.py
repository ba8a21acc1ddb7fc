"""What a decoding step should cost: the bytes it has to read, and how fast this machine reads them.

At batch 1 a decoder multiplies matrices by single vectors, so a step takes at least as long as reading every weight it
uses once. Counted are the layers run, the heads run, and the caches attended to; whatever else is read comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from .shapes import Workload
from .subjects import check_options

READ = 2**28  # bytes: far more than any cache holds
ENCODER_SIDE = ("EncDecAttention.k.", "EncDecAttention.v.", "encoder_attn.k_proj.", "encoder_attn.v_proj.")

Depths = Sequence[Sequence[int]]


class Memory:
    """A buffer to read and to copy, by as many threads as torch uses."""

    def __init__(self, size: int = READ) -> None:
        self.buffer = torch.ones(size // 4)
        self.copy = torch.empty_like(self.buffer)

    def measure(self) -> dict[str, float]:
        """`{"read", "copy", "best"}` in bytes per second; a copy reads and writes."""
        size = self.buffer.numel() * 4
        start = time.perf_counter()
        self.buffer.sum()
        middle = time.perf_counter()
        self.copy.copy_(self.buffer)
        read, copy = size / (middle - start), 2 * size / (time.perf_counter() - middle)
        return {"read": read, "copy": copy, "best": max(read, copy)}


def layer_weights(workload: Workload) -> float:
    """Weights that a decoder layer reads at a step, on average: all but the projections of the encoder's states."""
    layers = workload.base_layers
    counted = (weight.numel() for layer in layers for name, weight in layer.named_parameters() if not _once(name))
    return sum(counted) / len(layers)


def _once(name: str) -> bool:
    """Whether a layer's parameter makes keys and values of the source, once per answer."""
    return any(part in f"{name}." for part in ENCODER_SIDE)


def step_counts(depths: Depths) -> list[dict[str, int]]:
    """Of every step but the first: layers run (as deep as its deepest row), and how many different depths rows left at."""
    steps = [[row[t] for row in depths] for t in range(1, len(depths[0]))]
    return [{"layers": max(step), "exits": len(set(step))} for step in steps]


def checks_on_the_way(depths: Depths) -> float:
    """Exits per step, the first apart, that were passed without anybody leaving there."""
    counts = step_counts(depths)
    return sum(c["layers"] - c["exits"] for c in counts) / len(counts)


def head_bytes(
    workload: Workload, exit_check: str | None, layers: int, exits: int, layer: float, head: float
) -> float:
    """Bytes read at a step's exits: adaptation modules (the last exit has none), heads, and what is checked in their place.

    Args:
        layers: exits passed, those that somebody left by included.
        exits: those that somebody left by.
        layer, head: bytes of a weight in adaptation modules and in the head.
    """
    width, vocab = workload.width, workload.vocab
    first = next(iter(workload.model.deed_exits.values()), None)
    used = (p for n, p in first.named_parameters() if not _once(n)) if first is not None else ()
    adapter = sum(p.numel() for p in used) * layer
    last = int(layers == workload.n_layers)
    left = exits * width * vocab * head  # heads that gave a token
    if exit_check in (None, "gate"):  # a gate is a vector, and rows that leave unseen share one product
        return width * vocab * head + (exits - last) * adapter
    adapters = (layers - last) * adapter
    if exit_check in ("plain", "entropy"):
        return layers * width * vocab * head + adapters
    options = check_options(workload, exit_check)
    look = options["rank"] * (4 * width + vocab)  # the low-rank copy is in int8, the way to it in float32
    if exit_check == "screen":
        return left + (layers - last) * look + adapters
    assert exit_check == "shortlist", exit_check
    return left + look + max(0, layers - last - 1) * options["size"] * 4 * width + adapters


def step_bytes(workload: Workload, depths: Depths | None, exit_check: str | None, layer: float, head: float) -> float:
    """Bytes that a step reads, on average over the steps after the first.

    Args:
        depths: `[rows][steps]`; None: all at the last layer.
        layer, head: bytes of a weight in layers and in the head; keys and values have four.
    """
    table = depths if depths is not None else [[workload.n_layers] * workload.new_tokens] * workload.rows
    heads, head_width = workload.model.deed_family.heads(workload.model)
    position = 2 * heads * head_width * 4  # a key and a value
    lengths = workload.mask.sum(1).tolist()
    per_layer = layer_weights(workload) * layer
    total = 0.0
    for t, count in enumerate(step_counts(table), 1):
        total += count["layers"] * per_layer
        total += head_bytes(workload, exit_check, count["layers"], count["exits"], layer, head)
        total += sum(row[t] * (t + 1 + source) * position for row, source in zip(table, lengths, strict=True))
    return total / (len(table[0]) - 1)


def describe(workload: Workload) -> dict[str, Any]:
    """Sizes of a workload, for the record."""
    return {
        "shape": workload.shape,
        "batch": workload.rows,
        "model": type(workload.base).__name__,
        "layers": workload.n_layers,
        "d_model": workload.width,
        "vocab": workload.vocab,
        "source": workload.mask.sum(1).tolist(),
        "new_tokens": workload.new_tokens,
        "layer_mb": layer_weights(workload) * 4 / 1e6,
        "head_mb": workload.width * workload.vocab * 4 / 1e6,
    }
