"""Early exit against the untouched base class: the same inputs, the same run, batch 1, interleaved input by input.

A subject is a function that answers one input. Every input goes to all subjects in turn, another one first each time,
so that a machine that slows down (heat, other load) slows all of them; only ratios within one run mean anything.
The encoder is timed by hooks on `model.get_encoder()`; what is left of `generate()` counts as the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deed.constants import NEVER_EXIT
from deed.utils.timing import EncoderClock, Inputs, interleave, now, spread, timed_encoder

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, NEVER_EXIT)
WORK = ("computed_cells", "padding_cells", "full_depth_cells", "asked_rows")

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
class Runs:
    """All runs of one model at one threshold (None: the plain model), in the order of the inputs."""

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

    full: Runs
    deed: Runs

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
    return Comparison(Runs(None, runs["full"]), Runs(threshold, runs["deed"]))


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
) -> tuple[Runs, list[Runs]]:
    """The plain model and the deed model at each of `thresholds`, all interleaved.

    Args:
        base, model, inputs, decode, warmup, tick, generate_kwargs: as in `compare`.
        thresholds: the deed model's, one after the other.

    Returns:
        The plain model's subject, and one per threshold in the order given.
    """
    with timed_encoder(base) as base_clock, timed_encoder(model) as deed_clock:
        answers = {"full": _answerer(base, base_clock, decode, generate_kwargs)}
        for i, threshold in enumerate(thresholds):
            answers[str(i)] = _answerer(model, deed_clock, decode, {**generate_kwargs, "exit_threshold": threshold})
        runs = interleave(answers, inputs, warmup, tick)
    return Runs(None, runs["full"]), [Runs(t, runs[str(i)]) for i, t in enumerate(thresholds)]


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
