"""Early exit against the untouched base class: the same inputs, the same run, batch 1, interleaved input by input.

A subject is a function that answers one input. Every input goes to all subjects in turn, another one first each time,
so that a machine that slows down (heat, other load) slows all of them; only ratios within one run mean anything.
The encoder is timed by hooks on `model.get_encoder()`; what is left of `generate()` counts as the decoder's.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 2.0)  # 2.0 never leaves early
WORK = ("computed_cells", "padding_cells", "full_depth_cells", "asked_rows")

Inputs = Mapping[str, torch.Tensor]
Decode = Callable[[list[int]], str]
Tick = Callable[[int], None]


@dataclass
class Run:
    """One input answered once.

    Attributes:
        tokens: new tokens, the end token among them.
        depths: the depth that gave each token; None from a plain model, which has none to report.
        work: `StaircaseCache.stats()`; empty from a plain model.
    """

    prediction: str
    tokens: list[int]
    depths: list[int] | None
    overall_ms: float
    encoder_ms: float
    work: dict[str, int] = field(default_factory=dict)

    @property
    def decoder_ms(self) -> float:
        """All of `generate()` that is not the encoder."""
        return self.overall_ms - self.encoder_ms


@dataclass
class Subject:
    """All runs of one subject, in the order of the inputs. `threshold` is None for the plain model."""

    threshold: float | list[float] | None
    runs: list[Run]

    @property
    def predictions(self) -> list[str]:
        """Decoded answers."""
        return [run.prediction for run in self.runs]

    @property
    def mean_depth(self) -> float | None:
        """Mean over all tokens; None for the plain model."""
        depths = [d for run in self.runs for d in run.depths or ()]
        return sum(depths) / len(depths) if depths else None

    def summary(self) -> dict[str, Any]:
        """Times in ms, summed over the inputs, with median and quartiles per input; tokens and work done."""
        values: dict[str, Any] = {"inputs": len(self.runs), "tokens": sum(len(run.tokens) for run in self.runs)}
        for name in ("overall_ms", "encoder_ms", "decoder_ms"):
            times = [getattr(run, name) for run in self.runs]
            values[name] = sum(times)
            values[f"{name}_per_input"] = spread(times)
        if self.mean_depth is not None:
            values["mean_depth"] = self.mean_depth
            values["work"] = {name: sum(run.work.get(name, 0) for run in self.runs) for name in WORK}
        return values


@dataclass
class Comparison:
    """The plain model at full depth and the deed model at a threshold, on the same inputs in one run."""

    full: Subject
    deed: Subject

    def saving(self) -> dict[str, Any]:
        """Shares of latency saved, of the sums and as spread over the inputs; share of inputs answered alike."""
        pairs = list(zip(self.full.runs, self.deed.runs, strict=True))
        values: dict[str, Any] = {}
        for name in ("decoder", "overall"):
            times = [(getattr(f, f"{name}_ms"), getattr(d, f"{name}_ms")) for f, d in pairs]
            values[name] = 1 - sum(d for _, d in times) / sum(f for f, _ in times)
            values[f"{name}_per_input"] = spread([1 - d / f for f, d in times])
        values["same_tokens"] = sum(f.tokens == d.tokens for f, d in pairs) / len(pairs)
        return values


def compare(
    base: Any,
    model: Any,
    inputs: Sequence[Inputs],
    threshold: float | list[float],
    decode: Decode,
    *,
    warmup: int = 3,
    tick: Tick | None = None,
    **generate_kwargs: Any,
) -> Comparison:
    """Answer every input with both models, taking turns at going first.

    Args:
        base: the plain model (`AutoModelForSeq2SeqLM.from_pretrained(folder)`), whose own `generate()` is called.
        model: the deed model of the same weights.
        inputs: encoder inputs of one row each.
        threshold: the deed model's `exit_threshold`.
        decode: new tokens to text.
        warmup: so many of the inputs are answered untimed first.
        tick: called with 1 after every timed answer, for a progress bar.
        generate_kwargs: passed to both `generate()`.
    """
    subjects = {"full": (base, {}), "deed": (model, {"exit_threshold": threshold})}
    with timed_encoder(base) as base_clock, timed_encoder(model) as deed_clock:
        clocks = {"full": base_clock, "deed": deed_clock}
        answers = {
            name: _answerer(m, clocks[name], decode, {**generate_kwargs, **options})
            for name, (m, options) in subjects.items()
        }
        runs = interleave(answers, inputs, warmup, tick)
    return Comparison(Subject(None, runs["full"]), Subject(threshold, runs["deed"]))


def latency_curve(
    base: Any,
    model: Any,
    inputs: Sequence[Inputs],
    thresholds: Sequence[float | list[float]],
    decode: Decode,
    *,
    warmup: int = 1,
    tick: Tick | None = None,
    **generate_kwargs: Any,
) -> tuple[Subject, list[Subject]]:
    """The plain model and the deed model at each of `thresholds`, all interleaved; arguments as in `compare`.

    Returns:
        The plain model's subject, and one per threshold in the order given.
    """
    with timed_encoder(base) as base_clock, timed_encoder(model) as deed_clock:
        answers = {"full": _answerer(base, base_clock, decode, generate_kwargs)}
        for i, threshold in enumerate(thresholds):
            answers[str(i)] = _answerer(model, deed_clock, decode, {**generate_kwargs, "exit_threshold": threshold})
        runs = interleave(answers, inputs, warmup, tick)
    return Subject(None, runs["full"]), [Subject(t, runs[str(i)]) for i, t in enumerate(thresholds)]


def interleave(
    answers: Mapping[str, Callable[[Inputs], Run]], inputs: Sequence[Inputs], warmup: int = 1, tick: Tick | None = None
) -> dict[str, list[Run]]:
    """Runs per subject, in the order of `inputs`. Input i is answered by subject i first, then by the next ones.

    Raises:
        ValueError: no inputs.
    """
    if not inputs:
        raise ValueError("there are no inputs to measure on")
    names = list(answers)
    for values in inputs[:warmup]:
        for name in names:
            answers[name](values)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for i, values in enumerate(inputs):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            runs[name].append(answers[name](values))
            if tick is not None:
                tick(1)
    return runs


class EncoderClock:
    """Time spent in a model's encoder since the last `take()`."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent, self.started = device, 0.0, 0.0

    def start(self, *_: Any) -> None:
        self.started = now(self.device)

    def stop(self, *_: Any) -> None:
        self.spent += now(self.device) - self.started

    def take(self) -> float:
        """Seconds so far; starts over."""
        spent, self.spent = self.spent, 0.0
        return spent


@contextmanager
def timed_encoder(model: Any) -> Iterator[EncoderClock]:
    """Hooks around the encoder's forward for as long as the context lasts."""
    clock, encoder = EncoderClock(model.device), model.get_encoder()
    hooks = [encoder.register_forward_pre_hook(clock.start), encoder.register_forward_hook(clock.stop)]
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


def now(device: torch.device) -> float:
    """`time.perf_counter()` once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _answerer(model: Any, clock: EncoderClock, decode: Decode, options: dict[str, Any]) -> Callable[[Inputs], Run]:
    def answer(inputs: Inputs) -> Run:
        clock.take()
        start = now(model.device)
        out = model.generate(**inputs, **options, return_dict_in_generate=True)
        overall = now(model.device) - start
        encoder = clock.take()
        depths = out.exit_layers[0].tolist() if "exit_layers" in out else None
        # One decoder start token comes before the answer in both models: generate() puts it there itself.
        tokens = out.sequences[0, 1:].tolist()
        work = out.past_key_values.stats() if depths is not None else {}
        return Run(decode(tokens), tokens, depths, overall * 1e3, encoder * 1e3, work)

    return answer


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "p25": values[0], "p75": values[0]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "p25": low, "p75": high}


def depth_histogram(runs: Sequence[Run], n_layers: int) -> list[int]:
    """Tokens per depth 1..n_layers."""
    depths = [d for run in runs for d in run.depths or ()]
    return [depths.count(depth) for depth in range(1, n_layers + 1)]


def depth_by_position(runs: Sequence[Run]) -> list[dict[str, float]]:
    """`{"position", "mean_depth", "tokens"}` of every position that an answer reaches, 1-based."""
    rows = []
    for i in range(max((len(run.depths or ()) for run in runs), default=0)):
        here = [run.depths[i] for run in runs if run.depths is not None and len(run.depths) > i]
        rows.append({"position": i + 1, "mean_depth": sum(here) / len(here), "tokens": len(here)})
    return rows


def machine() -> dict[str, Any]:
    """What the times were taken on: processor, processors usable, torch's threads, load before the run."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    values: dict[str, Any] = {"processor": processor, "usable_cpus": usable, "torch_threads": torch.get_num_threads()}
    if hasattr(os, "getloadavg"):
        values["load_average_before"] = round(os.getloadavg()[0], 2)
    return {**values, "system": platform.platform()}


def versions() -> dict[str, str]:
    """Of what ran."""
    import transformers

    from .. import __version__

    return {
        "deed": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }
