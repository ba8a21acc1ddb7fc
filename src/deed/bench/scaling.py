"""`deed bench scaling`: cost against source length, answer length, batch, layers and vocabulary, one swept at a time around
a base point; and the memory of caches.

Three subjects: Transformers' `generate()`, deed never leaving, deed at a mean depth of a quarter of the layers with every
exit on the way asked. Times are of the decoder for a whole answer, cross-attention states included.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deed.constants import NEVER_EXIT
from deed.utils.progress import SILENT_BAR, Tell
from deed.utils.timing import interleave, machine, spread

from .random_weights import random_ids, t5
from .shapes import Shape, Workload, make_workload
from .speed import header
from .subjects import BASELINE, Subject, Timing, deed, generate, transformers

FULL, EARLY = "deed full", "deed mean depth 1/4"


@dataclass(frozen=True)
class Point:
    """One T5: `source` tokens read, `answer` tokens written, `batch` rows, `layers` in encoder and decoder each."""

    source: int = 128
    answer: int = 32
    batch: int = 1
    layers: int = 12
    vocab: int = 8192
    width: int = 256


SWEEPS: dict[str, tuple[int, ...]] = {
    "source": (32, 128, 512, 1024),
    "answer": (8, 32, 128, 256),
    "batch": (1, 4, 16, 32),
    "layers": (4, 8, 12, 24),
    "vocab": (1024, 8192, 32768, 65536),
}


def measure_scaling(
    sweeps: Mapping[str, Sequence[int]] | None = None,
    base: Point | None = None,
    rounds: int = 3,
    threads: int | None = None,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Measure every point once; the base point belongs to every sweep that has its value.

    Args:
        sweeps: values per field of `Point`.
        base: where the other fields stay.
        rounds: turns of each subject after a warm one.
        threads: None: as torch is set.
        progress: called with what is being done and the share of the whole that is.

    Returns:
        JSON values: `settings`, `command`, `versions`, `machine`, and `rows`, one per sweep and value.

    Raises:
        ValueError: no such field, or a value that no model has.
        RuntimeError: deed evaluated more (row, layer, position) cells than full depth has.
    """
    sweeps, base = sweeps or SWEEPS, base or Point()
    check(sweeps, rounds, threads)
    points = [(name, value, replace(base, **{name: value})) for name, values in sweeps.items() for value in values]
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    report = header("scaling", {"base": asdict(base), "sweeps": dict(sweeps), "rounds": rounds})
    report["machine"] = machine()
    measured: dict[Point, dict[str, Any]] = {}
    rows = []
    workload, say = None, progress or SILENT_BAR.update
    try:
        with tempfile.TemporaryDirectory(prefix="deed-bench-") as folder:
            for i, (name, value, point) in enumerate(points):
                say(f"{name} {value}", i / len(points))
                if point not in measured:
                    workload = workload_of(point, Path(folder), workload)
                    measured[point] = measure_point(workload, rounds)
                rows.append({"sweep": name, "value": value, **measured[point]})
    finally:
        torch.set_num_threads(before)
    return {**report, "rows": rows}


def check(sweeps: Mapping[str, Sequence[int]], rounds: int, threads: int | None = None) -> None:
    """Checks what `deed bench scaling` was given.

    Args:
        sweeps, rounds, threads: as for `measure_scaling`.

    Raises:
        ValueError: a field that `Point` does not have, or a value too small for it.
    """
    least = {"source": 1, "answer": 2, "batch": 1, "layers": 2, "vocab": 16}
    if rounds < 1 or (threads is not None and threads < 1):
        raise ValueError(f"--rounds and --threads must be at least 1, got {rounds} and {threads}")
    for name, values in sweeps.items():
        if name not in least:
            raise ValueError(f"--sweep must be one of {', '.join(least)}, got {name!r}")
        if not values or min(values) < least[name]:
            raise ValueError(f"--sweep {name} needs values of at least {least[name]}, got {list(values)}")


def workload_of(point: Point, folder: Path, last: Workload | None) -> Workload:
    """The point's model and inputs.

    Args:
        point: sizes.
        folder: what other runtimes may convert into.
        last: the workload before, whose model is used again where it is the same.
    """
    heads = max(1, point.width // 64)
    shape = Shape(
        f"{point.layers} layers, vocabulary {point.vocab}, width {point.width}",
        lambda: t5(point.layers, point.width, 4 * point.width, heads, point.vocab, min(64, point.width)),
        random_ids(point.source),
    )
    like = last if last is not None and last.shape == shape.name else None
    if like is None:
        gc.collect()
    workload = make_workload(shape, point.batch, point.answer, folder, like)
    workload.encodes = False  # what is swept is the decoder's
    return workload


def measure_point(workload: Workload, rounds: int) -> dict[str, Any]:
    """Times, ratios, work and memory of the three subjects."""
    subjects: dict[str, Subject] = {
        BASELINE: transformers(workload),
        FULL: deed(workload, "fp32"),
        EARLY: deed(workload, "fp32", mean=3, exit_check="plain"),
    }
    work = {name: subject.look() for name, subject in subjects.items() if subject.look is not None}
    memory = cache_memory(workload)  # with the looks, every subject has been run and is warm
    turns: Any = {name: lambda _, s=s: s.run() for name, s in subjects.items()}
    found: dict[str, list[Timing]] = interleave(turns, [{}] * rounds, warmup=0)  # type: ignore[assignment]
    whole = {name: [t.answer_ms(workload.new_tokens) for t in ts] for name, ts in found.items()}
    for name, counts in work.items():
        if counts["computed_cells"] > counts["full_depth_cells"]:
            raise RuntimeError(f"{name} computed more than full depth has: {counts}")
    return {
        "times": {
            name: {
                "decoder_ms": spread(ms),
                "token_ms": spread([m / workload.new_tokens for m in ms]),
                "step_ms": spread([t.step_ms for t in found[name]]),
                "times_faster_than_transformers": spread([a / b for a, b in zip(whole[BASELINE], ms, strict=True)]),
            }
            for name, ms in whole.items()
        },
        "work": work,
        "memory": memory,
    }


# -- memory -----------------------------------------------------------------------------------------------------------


def cache_memory(workload: Workload) -> dict[str, Any]:
    """Bytes of the caches after an answer: Transformers' and deed's at full depth, the latter by part.

    `over` is what deed takes beyond Transformers' caches and one hidden buffer `[rows, answer, d_model]`, as a share of
    the former.
    """
    options: dict[str, Any] = {"return_dict_in_generate": True}
    plain = generate(workload, workload.base, workload.new_tokens, **options).past_key_values
    ours = generate(
        workload, workload.model, workload.new_tokens, exit_threshold=NEVER_EXIT, **options
    ).past_key_values
    theirs = sum(
        stored(layer.keys, layer.values)
        for side in (plain.self_attention_cache, plain.cross_attention_cache)
        for layer in side.layers
    )
    weights = {p.untyped_storage().data_ptr() for p in [*workload.model.parameters(), *workload.model.buffers()]}
    total = stored(*(t for t in tensors_of(ours, set()) if t.untyped_storage().data_ptr() not in weights))
    parts = {
        "self_attention": stored(*ours.stairs.keys, *ours.stairs.values),
        "cross_attention": stored(*ours.cross_keys, *ours.cross_values),
        "hidden": stored(ours.stairs.hidden),
    }
    hidden = workload.rows * workload.new_tokens * workload.width * ours.stairs.hidden.element_size()
    return {
        "transformers_bytes": theirs,
        "deed_bytes": total,
        "deed_parts": {**parts, "other": total - sum(parts.values())},
        "hidden_buffer_bytes": hidden,
        "over": (total - hidden) / theirs - 1,
    }


def stored(*tensors: torch.Tensor | None) -> int:
    """Bytes of the storages behind these tensors, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())


def tensors_of(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """All tensors reachable from a cache: through containers and deed's own objects, not through modules."""
    if id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item, seen)
    elif type(value).__module__.startswith("deed."):
        for item in vars(value).values() if hasattr(value, "__dict__") else ():
            yield from tensors_of(item, seen)
