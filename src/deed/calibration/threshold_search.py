"""Which exits to ask, and at which threshold: chosen from what every exit would have said, for what a step costs.

`record_exits` writes down, per token and exit, the confidence and whether the exit's token is full depth's.
`measure_costs` times a layer and an ask on this machine. `optimise` gives every exit a threshold of its own (2.0: the exit
is not asked at all) so that the expected cost per token is lowest while at most a given share of tokens differs.

**Cost.** In units of one decoder layer on one position. A token that leaves at depth d runs the layers 1..d and asks the
exits on its way, the one it leaves by included. Layers it skips are paid for when a later token goes deeper: layer l is
run once per step that reaches it, on the block of all positions since the last such step, and a block of n positions
costs `1 + width * (n - 1)`. Positions after the last step that reaches layer l are never paid for. Given the depths of an
answer, that sum is exact; nothing is averaged.

**Errors** are counted per token on full depth's prefix: what a wrong token does to the rest of an answer is not seen
here. `deed.record_curve` measures that, `deed.calibrate` bounds it.

**Search.** A wrong token asks for a threshold just above its confidence; only such values matter, so they are each exit's
grid. For a price per wrong token (from "never" down to nothing), coordinate descent goes over the exits, last to first,
and sets each to its best grid value or to "not asked", all others held; the effect of every value on cost and errors is
exact and found in one pass over the tokens. It starts from the best single threshold for all exits and from the previous
price's result; then each exit still asked is left out on trial, the others descending anew, and stays out where that is
cheaper. Every setting met on the way is kept; a budget gets the cheapest that fits, so a larger budget never costs more.
Deterministic. It is a local search: the test suite compares it with brute force on small cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deed.constants import NEVER_EXIT

from .exit_statistics import ExitStatistics, record_exits
from .learn_then_test import GRID
from .step_costs import Costs, measure_costs

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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def optimise(
    statistics: ExitStatistics,
    costs: Costs | Mapping[str, float],
    agreement: float | None = None,
    *,
    lost_tokens: float | None = None,
    hold_out: bool = True,
) -> Choice:
    """The cheapest thresholds under which tokens agree with full depth's.

    Args:
        statistics: from `record_exits`.
        costs: from `measure_costs`, or `{"ask": …}` and what else `Costs` has, in units of a layer.
        agreement: share of tokens, in (0, 1]. Default 0.99.
        lost_tokens: instead of `agreement`, how many tokens of an example may differ on average.
        hold_out: choose on every other example and report on the rest; False chooses on all.

    Raises:
        ValueError: both targets, one out of range, or too few examples to hold any out.
    """
    if lost_tokens is not None:
        if agreement is not None:
            raise ValueError("give agreement or lost_tokens, not both")
        if not lost_tokens >= 0:
            raise ValueError(f"lost_tokens must be a number of at least 0, got {lost_tokens}")
        budget = lost_tokens * len(statistics.lengths) / max(1, statistics.tokens)
    else:
        agreement = 0.99 if agreement is None else agreement
        if not 0 < agreement <= 1:
            raise ValueError(f"agreement must lie in (0, 1], got {agreement}")
        budget = 1 - agreement
    return optimise_all(statistics, costs, [budget], hold_out=hold_out)[0]


def optimise_all(
    statistics: ExitStatistics,
    costs: Costs | Mapping[str, float],
    budgets: Sequence[float],
    *,
    hold_out: bool = True,
) -> list[Choice]:
    """As `optimise`, for several budgets (shares of tokens that may differ) by one search.

    Raises:
        ValueError: a negative budget, no exit before the last, no tokens, or too few examples to hold any out.
    """
    costs = costs if isinstance(costs, Costs) else Costs(**costs)
    if not budgets or not all(b >= 0 for b in budgets):
        raise ValueError(f"budgets must be numbers of at least 0, got {list(budgets)!r}")
    tuning, rest = statistics.halves() if hold_out else (statistics, None)
    search = _Search(tuning, costs)
    search.run()
    chosen = []
    for budget in budgets:
        thresholds = search.best(budget)
        there = evaluate(rest, thresholds, costs) if rest is not None else None
        chosen.append(Choice(thresholds, float(budget), evaluate(tuning, thresholds, costs), there))
    return chosen


def evaluate(
    statistics: ExitStatistics, thresholds: float | Sequence[float], costs: Costs | Mapping[str, float]
) -> dict[str, float]:
    """What thresholds (one, or one per exit but the last) do to the recorded tokens.

    Returns:
        `agreement` (share of tokens), and per token `cost`, `full_depth_cost` (both in layers), `mean_depth` and `asks`.

    Raises:
        ValueError: the wrong number of thresholds.
    """
    costs = costs if isinstance(costs, Costs) else Costs(**costs)
    exits = len(statistics.exit_layers) - 1
    values = [float(thresholds)] * exits if isinstance(thresholds, (int, float)) else [float(t) for t in thresholds]
    if len(values) != exits:
        raise ValueError(f"got {len(values)} thresholds, but there are {exits} exits before the last")
    leaving = np.full(statistics.tokens, exits)
    for e in reversed(range(exits)):
        leaving[statistics.confidence[e] >= values[e]] = e
    asked = np.array([value <= 1 for value in values])
    tokens = statistics.tokens
    early = leaving < exits
    wrong = int((~statistics.agrees[leaving[early], np.flatnonzero(early)]).sum())
    everyone, nobody = np.full(tokens, exits), np.zeros(exits, dtype=bool)
    return {
        "agreement": 1 - wrong / tokens,
        "cost": costs.fixed + _total_cost(statistics, leaving, asked, costs) / tokens,
        "full_depth_cost": costs.fixed + _total_cost(statistics, everyone, nobody, costs) / tokens,
        "mean_depth": float(np.asarray(statistics.exit_layers)[leaving].mean()),
        "asks": float(_asks_up_to(asked)[leaving].mean()),
    }


def _asks_up_to(asked: np.ndarray) -> np.ndarray:
    """Exits asked by a token that leaves at each exit, that one included; the last, which answers always, counts too."""
    return np.cumsum([*asked, True])


def _total_cost(statistics: ExitStatistics, leaving: np.ndarray, asked: np.ndarray, costs: Costs) -> float:
    """Layers and asks of all tokens, by the index of the exit `[tokens]` each leaves at."""
    total = costs.ask * float(_asks_up_to(asked)[leaving].sum())
    for index, layers in enumerate(np.diff([0, *statistics.exit_layers])):  # layers between two exits fare alike
        reached = leaving >= index
        # A block starts after the last step that got here, so all blocks of an answer together end with its last one.
        last = np.maximum.reduceat(np.where(reached, statistics.position + 1, 0), statistics.starts)
        blocks = float(reached.sum())
        total += layers * (blocks + costs.width * (last.sum() - blocks) + costs.first * np.count_nonzero(last))
    return float(total)


class _Search:
    """Coordinate descent over cuts: `cuts[e]` is an index into exit e's ascending grid, its length means "not asked"."""

    def __init__(self, statistics: ExitStatistics, costs: Costs) -> None:
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
        self.met: list[tuple[np.ndarray, np.ndarray, list[int], int]] = []  # cost and errors [grid + 1], cuts, exit

    def run(self) -> None:
        """Fill the pool of settings met."""
        tokens, n_layers = self.statistics.tokens, self.depth[-1]
        starts = [[len(grid) for grid in self.grids]]
        for threshold in GRID:
            # Rounded up to the grid: some more tokens go on, none more is wrong.
            starts.append([int(np.searchsorted(grid, threshold)) for grid in self.grids])
        known = [(self.measure(cuts), cuts) for cuts in starts]
        full = n_layers + self.costs.ask * (self.last + 1)
        cuts = starts[0]
        for price in [full * tokens, *np.geomspace(1000 * full, 0.1, PRICES), 0.0]:
            _, single = min(known, key=lambda item: item[0][0] + price * item[0][1])
            value, better = min((self.descend(start, price) for start in (single, cuts)), key=lambda item: item[0])
            for e in range(self.last):  # an exit may be worth its asks only as long as another is asked
                if better[e] < len(self.grids[e]):
                    fewer, without = self.descend(better, price, dropped=e)
                    if fewer < value:
                        value, better = fewer, without
            cuts = better

    def measure(self, cuts: list[int]) -> tuple[float, float]:
        """Total cost and number of wrong tokens."""
        leaving = np.full(self.statistics.tokens, self.last)
        for e in reversed(range(self.last)):
            leaving[self.bins[e] > cuts[e]] = e
        asked = np.array([cut < len(grid) for cut, grid in zip(cuts, self.grids, strict=True)])
        wrong = self.wrong[leaving, np.arange(len(leaving))].sum()
        return _total_cost(self.statistics, leaving, asked, self.costs), float(wrong)

    def descend(self, start: list[int], price: float, dropped: int | None = None) -> tuple[float, list[int]]:
        """Lower cost + price * errors from `start`, one exit kept from being asked; the value reached, and where."""
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
                self.met.append((costs, wrongs, list(cuts), e))
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
        asked = np.array([cut < len(grid) for cut, grid in zip(cuts, self.grids, strict=True)])
        asks = _asks_up_to(asked) - _asks_up_to(asked)[e]
        here = np.flatnonzero(reach)
        bins, later = self.bins[e][here], beyond[here]
        on = (1 - costs.width) * (self.depth[later] - self.depth[e]) + costs.ask * asks[later]
        errors = self.wrong[later, here].astype(np.float64) - self.wrong[e, here]
        cost, wrong = running(bins, on, size), running(bins, errors, size)
        cost[:size] += costs.ask * len(here)
        # What depends on an answer's last step past each exit: its blocks' total width, and a layer's first use.
        order = self.order[e][reach[self.order[e]]]
        stride = int(self.statistics.lengths.max()) + 1
        segments = np.diff([0, *self.statistics.exit_layers])
        for index in range(e + 1, self.last + 1):
            order = order[beyond[order] >= index]
            if not len(order) or not (costs.width or costs.first):
                break
            floor = self.statistics.example[order] * stride
            top = np.maximum.accumulate(floor + self.statistics.position[order] + 1)
            under = np.concatenate([[0], top[:-1]])
            rise = top - np.maximum(under, floor)
            gain = costs.width * rise + costs.first * (under <= floor)
            cost += segments[index] * running(self.bins[e][order], gain, size)
        return cost, wrong

    def best(self, budget: float) -> list[float]:
        """Thresholds of the cheapest setting met with at most that share of wrong tokens; of equal ones the rightest."""
        allowed = budget * self.statistics.tokens + 1e-9
        winner: tuple[float, float, int, int] | None = None
        for i, (costs, wrongs, _, _) in enumerate(self.met):
            fits = np.flatnonzero(wrongs <= allowed)
            if not len(fits):
                continue
            cut = fits[np.lexsort((wrongs[fits], costs[fits]))[0]]
            entry = (float(costs[cut]), float(wrongs[cut]), i, int(cut))
            if winner is None or entry[:2] < winner[:2]:
                winner = entry
        assert winner is not None, "never leaving early is among the settings met and has no wrong token"
        _, _, cuts, e = self.met[winner[2]]
        cuts = [winner[3] if i == e else cut for i, cut in enumerate(cuts)]
        return [float(g[cut]) if cut < len(g) else NEVER_EXIT for g, cut in zip(self.grids, cuts, strict=True)]


def running(bins: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Per cut 0..size, the sum over tokens that do not leave: those with `bins <= cut`."""
    return np.cumsum(np.bincount(bins, weights=weights, minlength=size + 1), dtype=np.float64)


def candidates(confidence: np.ndarray, agrees: np.ndarray) -> np.ndarray:
    """Thresholds `[<= GRID_SIZE]` of one exit worth trying, ascending.

    Halfway between a wrong token and the next surer one, for wrong tokens from the surest down (all of the first third,
    then ever fewer), and last the lowest confidence seen: everybody leaves who is no less sure than that.
    """
    values = np.unique(confidence)
    wrong = np.unique(confidence[~agrees])[::-1]
    if len(wrong) > GRID_SIZE - 1:
        near = GRID_SIZE // 3
        ranks = np.geomspace(near, len(wrong) - 1, GRID_SIZE - 1 - near).astype(int)
        wrong = wrong[np.unique([*range(near), *ranks])]
    above = np.searchsorted(values, wrong, side="right")
    wrong, above = wrong[above < len(values)], above[above < len(values)]  # above the surest of all lies nobody
    surer = values[above]
    middle = ((wrong.astype(np.float64) + surer) / 2).astype(values.dtype)
    middle = np.where(middle > wrong, middle, surer)  # neighbours in floating point have no middle
    found = np.unique([*middle, values[0]])
    return found[found <= 1]


__all__ = [
    "NEVER_EXIT",
    "Choice",
    "Costs",
    "ExitStatistics",
    "candidates",
    "evaluate",
    "measure_costs",
    "optimise",
    "optimise_all",
    "record_exits",
]
