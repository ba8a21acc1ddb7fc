"""What early exit would give a model, before any training: how far its exits agree with its last layer, as they are and
fitted in closed form, what a step costs here, and from both the speed-up to expect.

Nothing is promised: `deed.calibrate` bounds what early exit costs in score, `deed.record_curve` times it. Agreement is counted
on full depth's own answers, token by token, so what a wrong token does to the rest of an answer is not seen here.
"""

from __future__ import annotations

import statistics as medians
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from deed.config import DeedConfig
from deed.constants import GREEDY, NEVER_EXIT
from deed.modeling.model import DeedMixin, get_deed_model, unwrap
from deed.utils.timing import now, timed_encoder

from .advice import advice
from .answering import collate
from .exact_estimate import best_draft, draft_costs
from .exit_statistics import ExitStatistics, record_exits
from .ridge import fit_ridge, with_adapters
from .step_costs import Costs, measure_costs
from .teacher_forcing import evaluating
from .threshold_search import cost_of_examples, cost_of_perfect_gate, evaluate, search_thresholds

BUDGETS = (0.0, 0.01, 0.02)
TIMED = 8  # examples that full depth is timed on
RESAMPLES = 200  # of the examples, for the intervals
COST_RUNS = 3  # measurements of the step costs
NO_TIME = 1e-3  # ms of a layer, below which the clock was disturbed


@dataclass(frozen=True)
class Prediction:
    """What one way of leaving early is expected to give, on examples that nothing was chosen on.

    Attributes:
        exits: `"own"`, the exits as they are (of a plain model the last layer's norm and head on each layer), or `"fitted"`.
        mode: `"early"`, or `"exact"`: full depth's tokens, drafted early and verified.
        budget: share of tokens that might change when thresholds were chosen; 0 in exact mode.
        thresholds: per exit but the last, 2.0 where it is not asked; in exact mode of the one exit that drafts.
        changed: share of tokens that do change.
        mean_depth: layers at which tokens leave; None in exact mode.
        decoder: times faster than full depth's decoder: `[low, expected, high]`, at the confidence asked for.
        answer: the same for the whole answer, encoder included.
    """

    exits: str
    mode: str
    budget: float
    thresholds: list[float]
    changed: float
    mean_depth: float | None
    decoder: list[float]
    answer: list[float]


@dataclass(frozen=True)
class Estimate:
    """What `deed.estimate` found.

    Attributes:
        examples, tokens: what it looked at; half of it, held out, counts in `exits` and `predictions`.
        exits: per exit before the last its `depth`, the share of tokens on which it agrees with the last layer as it is
            (`own`) and `fitted`.
        costs: of a step, in layers.
        encoder_ms, decoder_ms, answer_tokens: of full depth's answers, one at a time (means).
        perfect_gate: times faster the decoder would be if every token left at the first own or fitted exit that agrees and no
            check cost anything: what no training of these exits reaches.
        predictions: with own and fitted exits, early and exact.
        advice: one sentence.
    """

    examples: int
    tokens: int
    exits: list[dict[str, float]]
    costs: Costs
    encoder_ms: float
    decoder_ms: float
    answer_tokens: float
    perfect_gate: dict[str, float]
    predictions: list[Prediction]
    advice: str = field(default="")

    @property
    def encoder_share(self) -> float:
        """Of the time of an answer at full depth."""
        return self.encoder_ms / (self.encoder_ms + self.decoder_ms)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "encoder_share": self.encoder_share}


def estimate(
    model: Any,
    dataset: Iterable[Mapping[str, Any]],
    *,
    budgets: Sequence[float] = BUDGETS,
    confidence: float = 0.95,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **generate_kwargs: Any,
) -> Estimate:
    """What early exit would give a model on examples like these, in minutes and without training.

    Half of the examples fit exits in closed form (a ridge regression from each layer to the last, as residual linear
    adapters); on the other half the confidence and agreement of every exit is recorded, thresholds are chosen on every second
    example and counted on the rest. A step's costs are measured on this machine, at batch 1.

    Args:
        model: plain or with early exit; it is left as it was. A plain one is looked at with an exit after every layer.
        dataset: examples as `{"input_ids": [...]}` or other encoder inputs without batch axis, see `deed.calibrate`; eight or
            more, some hundreds of tokens for an interval worth having. Labels are not used.
        budgets: shares of tokens that may change.
        confidence: of the intervals, over examples (bootstrap) and repeated measurements of the costs.
        batch_size: examples answered at once.
        seed: of the bootstrap.
        progress: called with a line per step.
        generate_kwargs: passed to `generate()`; greedy search where they do not say otherwise.

    Raises:
        ValueError: fewer than eight examples, a model with one exit only, or a budget or confidence out of range.
        TypeError: no family for the model's class.

    Example:
        ```python
        found = deed.estimate(model, held_out, max_new_tokens=8)
        print(found.advice)
        ```
    """
    examples = list(dataset)
    if len(examples) < 8:
        raise ValueError(f"an estimate needs 8 examples or more (a hundred are better), got {len(examples)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    if not budgets or not all(0 <= b <= 1 for b in budgets):
        raise ValueError(f"budgets must be shares of tokens in 0..1, got {list(budgets)!r}")
    say = progress or (lambda line: None)
    options = {**GREEDY, **generate_kwargs}
    plain = not isinstance(model, DeedMixin)
    if plain:
        get_deed_model(model, DeedConfig(adapter="none"))
    try:
        with evaluating(model):
            return _estimate(model, examples, tuple(budgets), confidence, batch_size, seed, say, options)
    finally:
        if plain:
            unwrap(model)


def _estimate(
    model: Any,
    examples: list[Mapping[str, Any]],
    budgets: tuple[float, ...],
    confidence: float,
    batch_size: int,
    seed: int,
    say: Callable[[str], None],
    options: dict[str, Any],
) -> Estimate:
    layers = model.deed_config.exit_layers
    if len(layers) < 2:
        raise ValueError("there is nothing to estimate: the model has no exit before the last layer")
    say("timing full depth")
    encoder_ms, decoder_ms, length = full_depth_times(model, examples[:TIMED], options)
    one = {k: v for k, v in collate(model, [examples[0]]).items() if not k.startswith("decoder_")}
    say("fitting exits in closed form")
    adapters = fit_ridge(model, examples[::2], batch_size, **options)
    say("timing a step by its depth")
    with with_adapters(model, adapters), _plain_checks(model):
        costs = measured_costs(model, one)
    held_out = [dict(example) for example in examples[1::2]]
    found: dict[str, ExitStatistics] = {}
    for name, change in (("own", nullcontext()), ("fitted", with_adapters(model, adapters))):
        say(f"asking every exit, {name}")
        with change, _plain_checks(model):
            found[name] = record_exits(model, held_out, confidence="max_prob", batch_size=batch_size, **options)
    say("choosing thresholds")
    share = encoder_ms / (encoder_ms + decoder_ms)
    samples = _Resampling(costs, share, confidence, seed)
    predictions = []
    for name, statistics in found.items():
        predictions += early_predictions(name, statistics, samples, budgets)
        exact = exact_prediction(name, statistics, samples)
        predictions += [exact] if exact is not None else []
    per_exit = [
        {
            "depth": depth,
            "own": float(found["own"].agrees[i].mean()),
            "fitted": float(found["fitted"].agrees[i].mean()),
        }
        for i, depth in enumerate(layers[:-1])
    ]
    gates = {}
    for name, statistics in found.items():
        full = cost_of_examples(statistics, NEVER_EXIT, samples.cost)
        early = cost_of_perfect_gate(statistics, samples.cost)
        gates[name] = float(full.sum() / early.sum())
    tokens = found["own"].tokens
    result = Estimate(
        len(examples), tokens, per_exit, samples.cost, encoder_ms, decoder_ms, length, gates, predictions
    )
    object.__setattr__(result, "advice", advice(result))
    return result


def full_depth_times(
    model: Any, examples: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> tuple[float, float, float]:
    """Mean milliseconds of the encoder and of the decoder, and tokens, of full depth's answers, one at a time.

    Args:
        model: a deed model.
        examples: the first is answered once more to warm up.
        options: of `generate()`.
    """
    encoder, decoder, tokens = [], [], []
    with torch.no_grad(), timed_encoder(model) as clock:
        for i, example in enumerate([examples[0], *examples]):
            inputs = collate(model, [example])
            clock.take()
            start = now(model.device)
            out = model.generate(**inputs, **options, exit_threshold=NEVER_EXIT, return_dict_in_generate=True)
            total, inside = now(model.device) - start, clock.take()
            if i:
                encoder.append(1e3 * inside)
                decoder.append(1e3 * (total - inside))
                tokens.append(int((out.exit_layers[0] > 0).sum()))
    return medians.fmean(encoder), medians.fmean(decoder), medians.fmean(tokens)


def measured_costs(model: Any, inputs: Mapping[str, torch.Tensor]) -> list[Costs]:
    """A step's costs, measured some times; those that a busy machine spoilt (a layer that takes no time) left out.

    Args:
        model: a deed model.
        inputs: of one row.

    Raises:
        ValueError: all were spoilt.
    """
    found: list[Costs] = []
    for _ in range(2 * COST_RUNS):
        cost = measure_costs(model, inputs, steps=16, repeats=3)
        if (cost.layer_ms or 0.0) > NO_TIME:
            found.append(cost)
        if len(found) == COST_RUNS:
            break
    if not found:
        raise ValueError("a layer could not be timed: this machine is too busy; try again when less else runs")
    return found


class _plain_checks:
    """The plain exit check for a while: what is recorded and what is timed are the same."""

    def __init__(self, model: Any) -> None:
        self.config = model.deed_config

    def __enter__(self) -> None:
        self.before = self.config.exit_check
        self.config.exit_check = "plain"

    def __exit__(self, *_: object) -> None:
        self.config.exit_check = self.before


class _Resampling:
    """Speed-ups and their intervals: over examples drawn again, each time with one of the measured costs.

    Args:
        costs: measured several times.
        encoder_share: of an answer's time at full depth.
        confidence: of the intervals.
        seed: of the draws.
    """

    def __init__(self, costs: Sequence[Costs], encoder_share: float, confidence: float, seed: int) -> None:
        self.costs, self.share, self.seed = list(costs), encoder_share, seed
        self.edges = [100 * (1 - confidence) / 2, 100 * (1 + confidence) / 2]
        self.cost = sorted(self.costs, key=lambda c: c.layer_ms or 0.0)[len(self.costs) // 2]

    def speedups(self, cost_of: Callable[[Costs], tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], list[float]]:
        """Decoder's and answer's `[low, expected, high]`.

        Args:
            cost_of: with these costs, what every example costs at full depth and early, `[examples]` each.
        """
        full, early = cost_of(self.cost)
        middle = float(full.sum() / early.sum())
        generator, drawn = np.random.default_rng(self.seed), []
        for full, early in map(cost_of, self.costs):
            for _ in range(RESAMPLES):
                at = generator.integers(0, len(full), len(full))
                drawn.append(full[at].sum() / early[at].sum())
        low, high = np.percentile(drawn, self.edges)
        decoder = [min(float(low), middle), middle, max(float(high), middle)]
        return decoder, [1 / (self.share + (1 - self.share) / value) for value in decoder]


def early_predictions(
    name: str, statistics: ExitStatistics, samples: _Resampling, budgets: Sequence[float]
) -> list[Prediction]:
    """Thresholds for each budget, chosen on every second example, and what they give on the others.

    Args:
        name: of the exits.
        statistics: of `record_exits`.
        samples: for the intervals.
        budgets: shares of tokens that may change.
    """
    chosen_on, counted_on = statistics.halves()
    found = []
    for choice in search_thresholds(chosen_on, samples.cost, budgets, hold_out=False):
        counted = evaluate(counted_on, choice.thresholds, samples.cost)

        def cost_of(costs: Costs, thresholds: list[float] = choice.thresholds) -> tuple[np.ndarray, np.ndarray]:
            full, early = (cost_of_examples(counted_on, t, costs) for t in (NEVER_EXIT, thresholds))
            return full, early

        speedups = samples.speedups(cost_of)
        changed, depth = 1 - counted["agreement"], counted["mean_depth"]
        found.append(Prediction(name, "early", choice.budget, choice.thresholds, changed, depth, *speedups))
    return found


def exact_prediction(name: str, statistics: ExitStatistics, samples: _Resampling) -> Prediction | None:
    """Likewise exact mode; None where drafting does not pay.

    Args:
        name, statistics, samples: as for `early_predictions`.
    """
    chosen_on, counted_on = statistics.halves()
    how = best_draft(chosen_on, samples.cost)
    if how is None:
        return None

    def cost_of(costs: Costs) -> tuple[np.ndarray, np.ndarray]:
        return cost_of_examples(counted_on, NEVER_EXIT, costs), draft_costs(counted_on, how, costs)

    thresholds = [NEVER_EXIT] * (len(statistics.exit_layers) - 1)
    thresholds[how.exit_index] = how.threshold
    return Prediction(name, "exact", 0.0, thresholds, 0.0, None, *samples.speedups(cost_of))
