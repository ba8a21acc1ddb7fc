"""What early exit would give a model, before any training: how far its exits agree with its last layer, as they are and
fitted in closed form, what a step costs here, and from both the speed-up to expect.

Nothing is promised: `deed.calibrate` bounds what early exit costs in score, `deed.record_curve` times it. Agreement is counted
on full depth's own answers, token by token, so what a wrong token does to the rest of an answer is not seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from deed.config import DeedConfig
from deed.constants import GREEDY, NEVER_EXIT
from deed.modeling.model import DeedMixin, get_deed_model, unwrap

from .advice import advice as advice_on
from .answering import collate
from .exit_statistics import ExitStatistics, record_exits
from .ridge import fit_ridge, with_adapters
from .speed_ups import SpeedUps, timed
from .step_costs import Costs, measure_costs
from .teacher_forcing import evaluating
from .threshold_search import cost_of_examples, cost_of_perfect_gate, evaluate, search_thresholds

BUDGETS = (0.0, 0.01, 0.02)
TIMED = 16  # held-out examples that are timed
COST_RUNS = 3  # measurements of the step costs
NO_TIME = 1e-3  # ms of a layer, below which the clock was disturbed


@dataclass(frozen=True)
class Prediction:
    """What one way of leaving early is expected to give, on examples that nothing was chosen on.

    Attributes:
        exits: `"own"`, the exits as they are (of a plain model the last layer's norm and head on each layer), or `"fitted"`.
        mode: `"early"`, or `"exact"`: full depth's tokens, drafted early and verified.
        budget: share of tokens that might change when thresholds were chosen; 0 in exact mode.
        thresholds: per exit but the last, 2.0 where it is not asked; empty in exact mode, which tunes itself.
        changed: share of tokens that do change.
        mean_depth: layers at which tokens leave; None in exact mode.
        decoder: times faster than full depth's decoder, timed on some held-out examples one at a time: `[low, expected, high]`
            at the confidence asked for.
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
            (`own`) and `fitted`, which exits with layers of their own have not.
        costs: of a step, in layers.
        encoder_ms, decoder_ms, answer_tokens: of full depth's answers, one at a time (means).
        perfect_gate: times faster the decoder would be if every token left at the first own or fitted exit that agrees and no
            check cost anything: what no training of these exits reaches.
        predictions: with own and fitted exits, early and exact.
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

    @property
    def advice(self) -> str:
        """One sentence on what to do."""
        return advice_on(self)

    @property
    def encoder_share(self) -> float:
        """Of the time of an answer at full depth."""
        return self.encoder_ms / (self.encoder_ms + self.decoder_ms)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "encoder_share": self.encoder_share, "advice": self.advice}


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
    example by what a step costs on this machine, and counted and timed on the rest, at batch 1.

    Args:
        model: plain or with early exit; it is left as it was. A plain one is looked at with an exit after every layer.
        dataset: examples as `{"input_ids": [...]}` or other encoder inputs without batch axis, see `deed.calibrate`; eight or
            more, some hundreds of tokens for an interval worth having. Labels are not used.
        budgets: shares of tokens that may change.
        confidence: of the intervals, over the timed examples (bootstrap).
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
    seconds = timed(model, examples[:TIMED], {"full": {"exit_threshold": NEVER_EXIT}}, options)["full"]
    decoder_ms, answer_ms, length = (float(v) for v in seconds.mean(0) * (1e3, 1e3, 1))
    one = {k: v for k, v in collate(model, [examples[0]]).items() if not k.startswith("decoder_")}
    ways: dict[str, Callable[[], Any]] = {"own": nullcontext}
    if model.deed_config.adapter != "layer":  # layers of their own have no closed form
        say("fitting exits in closed form")
        adapters = fit_ridge(model, examples[::2], batch_size, **options)
        ways["fitted"] = partial(with_adapters, model, adapters)
    say("timing a step by its depth")
    with list(ways.values())[-1](), _plain_checks(model):
        costs = measured_costs(model, one)
    held_out = [dict(example) for example in examples[1::2]]
    found: dict[str, ExitStatistics] = {}
    predictions: list[Prediction] = []
    speed_ups = SpeedUps(confidence, seed)
    for name, change in ways.items():
        with change(), _plain_checks(model):
            say(f"asking every exit, {name}")
            found[name] = record_exits(model, held_out, confidence="max_prob", batch_size=batch_size, **options)
            say(f"timing chosen thresholds, {name}")
            predictions += predictions_of(name, model, found[name], held_out, costs, budgets, speed_ups, options)
    per_exit = [
        {"depth": depth, **{name: float(found[name].agrees[i].mean()) for name in ways}}
        for i, depth in enumerate(layers[:-1])
    ]
    gates = {}
    for name, statistics in found.items():
        full = cost_of_examples(statistics, NEVER_EXIT, costs)
        gates[name] = float(full.sum() / cost_of_perfect_gate(statistics, costs).sum())
    tokens = found["own"].tokens
    encoder_ms = answer_ms - decoder_ms
    return Estimate(len(examples), tokens, per_exit, costs, encoder_ms, decoder_ms, length, gates, predictions)


def measured_costs(model: Any, inputs: Mapping[str, torch.Tensor]) -> Costs:
    """A step's costs: of three measurements that with the middle layer; those that a busy machine spoilt left out.

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
    return sorted(found, key=lambda c: c.layer_ms or 0.0)[len(found) // 2]


class _plain_checks:
    """The plain exit check for a while: what is recorded and what is timed are the same."""

    def __init__(self, model: Any) -> None:
        self.config = model.deed_config

    def __enter__(self) -> None:
        self.before = self.config.exit_check
        self.config.exit_check = "plain"

    def __exit__(self, *_: object) -> None:
        self.config.exit_check = self.before


def predictions_of(
    name: str,
    model: Any,
    statistics: ExitStatistics,
    examples: Sequence[Mapping[str, Any]],
    costs: Costs,
    budgets: Sequence[float],
    speed_ups: SpeedUps,
    options: Mapping[str, Any],
) -> list[Prediction]:
    """Thresholds for each budget, chosen on every second example; what they give, and what exact mode gives, on the others.

    Args:
        name: of the exits that `model` has now.
        model: a deed model.
        statistics: of `record_exits` on these examples.
        examples: held out.
        costs: of a step, by which thresholds are chosen.
        budgets: shares of tokens that may change.
        speed_ups: gives them with their interval.
        options: of `generate()`.
    """
    chosen_on, counted_on = statistics.halves()
    choices = {tuple(c.thresholds): c for c in search_thresholds(chosen_on, costs, budgets, hold_out=False)}
    ways: dict[Any, dict[str, Any]] = {"full": {"exit_threshold": NEVER_EXIT}}
    ways |= {thresholds: {"exit_threshold": list(thresholds)} for thresholds in choices}
    ways["exact"] = {"exact": True}
    times = timed(model, examples[1::2][:TIMED], ways, options)
    found = []
    for thresholds, choice in choices.items():
        counted = evaluate(counted_on, thresholds, costs)
        changed, depth = 1 - counted["agreement"], counted["mean_depth"]
        speed_up = speed_ups.of(times["full"], times[thresholds])
        found.append(Prediction(name, "early", choice.budget, list(thresholds), changed, depth, *speed_up))
    return [*found, Prediction(name, "exact", 0.0, [], 0.0, None, *speed_ups.of(times["full"], times["exact"]))]
