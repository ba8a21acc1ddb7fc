"""Which exits to check, and at which threshold: chosen from the recorded confidence of every exit and the costs of a step.

`record_exits` writes down, per token and exit, the confidence and whether the exit's token is full depth's.
`measure_costs` times a layer and an exit check on this machine. `search_thresholds` gives every exit a threshold of its own
(2.0: the exit is not checked at all) so that the expected cost per token is lowest while at most a given share of tokens
differs.

**Cost.** In units of one decoder layer on one position. A token that leaves at depth d runs the layers 1..d and checks the
exits on its way, the one it leaves by included. Layers it skips are paid for when a later token goes deeper: layer l is
run once per step that reaches it, on the block of all positions since the last such step, and a block of n positions
costs `1 + extra_position * (n - 1)`. Positions after the last step that reaches layer l are never paid for. Given the
depths of an answer, that sum is exact; nothing is averaged.

**Errors** are counted per token on full depth's prefix: what a wrong token does to the rest of an answer is not seen
here. `deed.record_curve` measures that, `deed.calibrate` bounds it.

**Search.** Only thresholds just above a wrong token's confidence matter; they are each exit's grid. For falling prices per
wrong token, coordinate descent goes over the exits, last to first, and sets each to the grid value of lowest cost plus
priced errors, all others held; the effect of every value is exact and found in one pass over the tokens. Then each exit
still checked is left out on trial, the others descending anew, and stays out where that is cheaper. A budget gets the
cheapest of all settings met that fits it. A local search, without randomness: the tests compare it with brute force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deed.constants import NEVER_EXIT

from .exit_statistics import ExitStatistics
from .step_costs import Costs

GRID_SIZE = 96  # thresholds tried per exit
PRICES = 24  # per wrong token
SWEEPS = 6  # over all exits, per start; most descents settle after three


@dataclass(frozen=True)
class Choice:
    """Thresholds for a budget, and what they do on the examples they were chosen on and on others.

    Attributes:
        thresholds: one per exit but the last, as `exit_threshold` and `DeedConfig.threshold` take them.
        budget: share of tokens that may differ from full depth's.
        tuning: `evaluate()` on the examples chosen on.
        held_out: the same on the other half; None where all were used to choose.
    """

    thresholds: list[float]
    budget: float
    tuning: dict[str, float]
    held_out: dict[str, float] | None


def search_thresholds(
    statistics: ExitStatistics, costs: Costs, budgets: Sequence[float], *, hold_out: bool = True
) -> list[Choice]:
    """The cheapest thresholds found under which at most a share of tokens differs from full depth's, per share.

    Args:
        statistics: from `record_exits`.
        costs: from `measure_costs`.
        budgets: shares of tokens that may differ, each 0 or more.
        hold_out: choose on every other example and report on the rest; False chooses on all.

    Raises:
        ValueError: a negative budget, no exit before the last, no tokens, or too few examples to hold any out.
    """
    if not budgets or not all(b >= 0 for b in budgets):
        raise ValueError(f"budgets must be numbers of at least 0, got {list(budgets)!r}")
    tuning, rest = statistics.halves() if hold_out else (statistics, None)
    chosen = []
    for budget, thresholds in zip(budgets, _Descent(tuning, costs, budgets).run(), strict=True):
        there = evaluate(rest, thresholds, costs) if rest is not None else None
        chosen.append(Choice(thresholds, float(budget), evaluate(tuning, thresholds, costs), there))
    return chosen


def evaluate(statistics: ExitStatistics, thresholds: float | Sequence[float], costs: Costs) -> dict[str, float]:
    """What thresholds do to the recorded tokens.

    Args:
        statistics: from `record_exits`.
        thresholds: one for all exits, or one per exit but the last.
        costs: from `measure_costs`.

    Returns:
        `agreement` (share of tokens), and per token `cost`, `full_depth_cost` (both in layers), `mean_depth` and
        `exit_checks`.

    Raises:
        ValueError: the wrong number of thresholds.
    """
    exits = len(statistics.exit_layers) - 1
    exited_at, checked = _exited_at(statistics, thresholds)
    tokens = statistics.tokens
    early = exited_at < exits
    wrong = int((~statistics.agrees[exited_at[early], np.flatnonzero(early)]).sum())
    everyone, nobody = np.full(tokens, exits), np.zeros(exits, dtype=bool)
    return {
        "agreement": 1 - wrong / tokens,
        "cost": costs.fixed + _total_cost(statistics, exited_at, checked, costs) / tokens,
        "full_depth_cost": costs.fixed + _total_cost(statistics, everyone, nobody, costs) / tokens,
        "mean_depth": float(np.asarray(statistics.exit_layers)[exited_at].mean()),
        "exit_checks": float(_checks_up_to(checked)[exited_at].mean()),
    }


def _checks_up_to(checked: np.ndarray) -> np.ndarray:
    """Exit checks of a token that leaves at each exit, that one included; the last, which answers always, counts too."""
    return np.cumsum([*checked, True])


def _check_costs(checked: np.ndarray, costs: Costs) -> np.ndarray:
    """What they cost in layers: of all exits but the last also the layer that an exit may have of its own."""
    early = costs.exit_check + costs.exit_layer
    return np.cumsum([*(checked * early), costs.at_last])


def _total_cost(statistics: ExitStatistics, exited_at: np.ndarray, checked: np.ndarray, costs: Costs) -> float:
    """Layers and exit checks of all tokens, by the index of the exit `[tokens]` each leaves at."""
    return float(_cost_of_examples(statistics, exited_at, _check_costs(checked, costs)[exited_at], costs).sum())


def _cost_of_examples(
    statistics: ExitStatistics, exited_at: np.ndarray, checks: np.ndarray, costs: Costs
) -> np.ndarray:
    """The same of each example, `[examples]`; `checks` `[tokens]` is what the exit checks on the way cost."""
    total = np.add.reduceat(checks.astype(float), statistics.starts)
    for index, layers in enumerate(
        np.diff([0, *statistics.exit_layers])
    ):  # layers between two exits have the same cost
        reached = exited_at >= index
        # A block starts after the last step that got here, so all blocks of an answer together end with its last one.
        last = np.maximum.reduceat(np.where(reached, statistics.position + 1, 0), statistics.starts)
        blocks = np.add.reduceat(reached.astype(float), statistics.starts)
        total += layers * (blocks + costs.extra_position * (last - blocks) + costs.first_use * (last > 0))
    return total


def cost_of_examples(statistics: ExitStatistics, thresholds: float | Sequence[float], costs: Costs) -> np.ndarray:
    """What each recorded example costs in layers, `[examples]`.

    Args:
        statistics, thresholds, costs: as for `evaluate`; 2.0 everywhere is full depth.

    Raises:
        ValueError: the wrong number of thresholds.
    """
    exited_at, checked = _exited_at(statistics, thresholds)
    cost = _cost_of_examples(statistics, exited_at, _check_costs(checked, costs)[exited_at], costs)
    return cost + costs.fixed * statistics.lengths


def cost_of_perfect_gate(statistics: ExitStatistics, costs: Costs) -> np.ndarray:
    """The same where every token leaves at the first exit that agrees with full depth, and only that exit's head costs."""
    agrees = np.concatenate([statistics.agrees, np.ones((1, statistics.tokens), dtype=bool)])
    first = agrees.argmax(0)
    early = first < len(statistics.exit_layers) - 1
    checks = np.where(early, costs.exit_check + costs.exit_layer, costs.at_last)
    return _cost_of_examples(statistics, first, checks, costs) + costs.fixed * statistics.lengths


def _exited_at(statistics: ExitStatistics, thresholds: float | Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The index of the exit that each token leaves at, and which exits are checked."""
    exits = len(statistics.exit_layers) - 1
    values = [float(thresholds)] * exits if isinstance(thresholds, (int, float)) else [float(t) for t in thresholds]
    if len(values) != exits:
        raise ValueError(f"got {len(values)} thresholds, but there are {exits} exits before the last")
    exited_at = np.full(statistics.tokens, exits)
    for e in reversed(range(exits)):
        exited_at[statistics.confidence[e] >= values[e]] = e
    return exited_at, np.array([value <= 1 for value in values])


class _Descent:
    """Coordinate descent over cuts: `cuts[e]` is an index into exit e's ascending grid, its length means "not checked"."""

    def __init__(self, statistics: ExitStatistics, costs: Costs, budgets: Sequence[float]) -> None:
        if len(statistics.exit_layers) < 2 or statistics.tokens == 0:
            raise ValueError("there is nothing to choose: the statistics have no exit before the last, or no tokens")
        self.statistics, self.costs = statistics, costs
        self.last = len(statistics.exit_layers) - 1
        self.depth = np.asarray(statistics.exit_layers, dtype=np.float64)
        self.wrong = np.vstack([~statistics.agrees, np.zeros(statistics.tokens, dtype=bool)])
        self.grids = [candidates(c, a) for c, a in zip(statistics.confidence, statistics.agrees, strict=True)]
        # A token leaves at exit e where bins[e] > cuts[e].
        self.bins = [
            np.searchsorted(g, c, side="right") for g, c in zip(self.grids, statistics.confidence, strict=True)
        ]
        self.order = [np.lexsort((b, statistics.example)) for b in self.bins]  # stable: in time within example and bin
        self.allowed = [budget * statistics.tokens + 1e-9 for budget in budgets]  # wrong tokens
        never = [len(grid) for grid in self.grids]
        self.best = [(np.inf, np.inf, never)] * len(budgets)  # cost, errors and cuts, per budget

    def run(self) -> list[list[float]]:
        """Thresholds per budget."""
        full = self.depth[-1] + _check_costs(np.ones(self.last, dtype=bool), self.costs)[-1]
        cuts = [len(grid) for grid in self.grids]
        for price in [full * self.statistics.tokens, *np.geomspace(1000 * full, 0.1, PRICES), 0.0]:
            value, cuts = self.descend(cuts, price)
            for e in range(self.last):  # an exit may be worth its checks only as long as another is checked
                if cuts[e] < len(self.grids[e]):
                    fewer, without = self.descend(cuts, price, dropped=e)
                    if fewer < value:
                        value, cuts = fewer, without
        return [
            [float(g[cut]) if cut < len(g) else NEVER_EXIT for g, cut in zip(self.grids, found, strict=True)]
            for _, _, found in self.best
        ]

    def measure(self, cuts: list[int]) -> tuple[float, float]:
        """Total cost and number of wrong tokens."""
        exited_at = np.full(self.statistics.tokens, self.last)
        for e in reversed(range(self.last)):
            exited_at[self.bins[e] > cuts[e]] = e
        wrong = self.wrong[exited_at, np.arange(len(exited_at))].sum()
        return _total_cost(self.statistics, exited_at, self.checked(cuts), self.costs), float(wrong)

    def checked(self, cuts: list[int]) -> np.ndarray:
        """`[exits before the last]` bool."""
        return np.array([cut < len(grid) for cut, grid in zip(cuts, self.grids, strict=True)])

    def descend(self, start: list[int], price: float, dropped: int | None = None) -> tuple[float, list[int]]:
        """Lower cost + price * errors from `start`, one exit kept from being checked; the value reached, and where."""
        cuts = list(start)
        if dropped is not None:
            cuts[dropped] = len(self.grids[dropped])
        cost, wrong = self.measure(cuts)
        for _ in range(SWEEPS):
            before = list(cuts)
            reach = [np.ones(self.statistics.tokens, dtype=bool)]
            for e in range(self.last - 1):
                reach.append(reach[e] & (self.bins[e] <= cuts[e]))
            beyond = np.full(self.statistics.tokens, self.last)  # where a token leaves that does not leave at e
            for e in reversed(range(self.last)):
                costs, wrongs = self.options(e, reach[e], beyond, cuts)
                costs += cost - costs[cuts[e]]
                wrongs += wrong - wrongs[cuts[e]]
                self.remember(costs, wrongs, e, cuts)
                value = costs + price * wrongs
                best = int(np.argmin(value))
                if e != dropped and value[best] < value[cuts[e]] - 1e-9 * abs(value[cuts[e]]):
                    cuts[e] = best
                cost, wrong = float(costs[cuts[e]]), float(wrongs[cuts[e]])
                beyond = np.where(self.bins[e] > cuts[e], e, beyond)
            if cuts == before:
                break
        return cost + price * wrong, cuts

    def options(self, e: int, reach: np.ndarray, beyond: np.ndarray, cuts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Cost and errors of every cut of exit e, up to a constant, the other exits as they are."""
        costs, size = self.costs, len(self.grids[e])
        checks = _check_costs(self.checked(cuts), costs)
        here = np.flatnonzero(reach)
        bins, later = self.bins[e][here], beyond[here]
        on = (1 - costs.extra_position) * (self.depth[later] - self.depth[e])
        on += checks[later] - checks[e]
        errors = self.wrong[later, here].astype(np.float64) - self.wrong[e, here]
        cost, wrong = _running(bins, on, size), _running(bins, errors, size)
        cost[:size] += (costs.exit_check + costs.exit_layer) * len(here)
        # What depends on an answer's last step past each exit: the total length of its blocks, and a layer's first use.
        order = self.order[e][reach[self.order[e]]]
        stride = int(self.statistics.lengths.max()) + 1
        segments = np.diff([0, *self.statistics.exit_layers])
        for index in range(e + 1, self.last + 1):
            order = order[beyond[order] >= index]
            if not len(order) or not (costs.extra_position or costs.first_use):
                break
            floor = self.statistics.example[order] * stride
            top = np.maximum.accumulate(floor + self.statistics.position[order] + 1)
            under = np.concatenate([[0], top[:-1]])
            rise = top - np.maximum(under, floor)
            gain = costs.extra_position * rise + costs.first_use * (under <= floor)
            cost += segments[index] * _running(self.bins[e][order], gain, size)
        return cost, wrong

    def remember(self, costs: np.ndarray, wrongs: np.ndarray, e: int, cuts: list[int]) -> None:
        """Keep per budget the cheapest fitting cut of exit e, if it is the cheapest so far; ties go to the fewest errors."""
        for i, allowed in enumerate(self.allowed):
            fits = np.flatnonzero(wrongs <= allowed)
            if len(fits):
                cut = int(fits[np.lexsort((wrongs[fits], costs[fits]))[0]])
                found = (float(costs[cut]), float(wrongs[cut]))
                if found < self.best[i][:2]:
                    self.best[i] = (*found, [*cuts[:e], cut, *cuts[e + 1 :]])


def _running(bins: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Per cut 0..size, the sum over tokens that do not leave: those with `bins <= cut`."""
    return np.cumsum(np.bincount(bins, weights=weights, minlength=size + 1), dtype=np.float64)


def candidates(confidence: np.ndarray, agrees: np.ndarray) -> np.ndarray:
    """Thresholds `[<= GRID_SIZE]` of one exit worth trying, ascending.

    Halfway between a wrong token and the next surer one, for wrong tokens from the surest down (all of the first third,
    then ever fewer), and last the lowest confidence seen: every token at least that confident exits.
    """
    values = np.unique(confidence)
    wrong = np.unique(confidence[~agrees])[::-1]
    if len(wrong) > GRID_SIZE - 1:
        near = GRID_SIZE // 3
        ranks = np.geomspace(near, len(wrong) - 1, GRID_SIZE - 1 - near).astype(int)
        wrong = wrong[np.unique([*range(near), *ranks])]
    above = np.searchsorted(values, wrong, side="right")
    wrong, above = wrong[above < len(values)], above[above < len(values)]  # no token has a higher confidence
    surer = values[above]
    middle = ((wrong.astype(np.float64) + surer) / 2).astype(values.dtype)
    middle = np.where(middle > wrong, middle, surer)  # adjacent floating-point numbers have no midpoint
    found = np.unique([*middle, values[0]])
    return found[found <= 1]
