"""What exact mode would cost on recorded tokens: drafts by one exit, verified by the last layer, replayed token by token.

A draft is made while the exit's confidence reaches a threshold and the run is no longer than a limit; then one pass of the
layers above verifies the run and gives the token after it (`engine/exact.py`). Drafts after a wrong one are lost. Which exit,
threshold and length are cheapest is chosen on one half of the examples, and what it comes to is counted on the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deed.constants import NEVER_EXIT

from .exit_statistics import ExitStatistics
from .step_costs import Costs
from .threshold_search import cost_of_examples

LENGTHS = (1, 2, 4, 8, 16)  # drafts of a run at most
THRESHOLDS = 10  # tried per exit, at quantiles of its confidence


@dataclass(frozen=True)
class Draft:
    """How exact mode drafts.

    Attributes:
        exit_index: the exit that drafts.
        threshold: of its confidence.
        length: drafts of a run at most.
    """

    exit_index: int
    threshold: float
    length: int


def draft_costs(statistics: ExitStatistics, how: Draft, costs: Costs) -> np.ndarray:
    """What each recorded example costs in layers, drafted in this way: `[examples]`.

    Args:
        statistics: of `record_exits`.
        how: exit, threshold, length.
        costs: of `measure_costs`.
    """
    depth, layers = statistics.exit_layers[how.exit_index], statistics.exit_layers[-1]
    begun = (
        depth + costs.exit_layer + costs.exit_check + costs.fixed
    )  # a drafting pass; the first layers of a verifying one
    above = layers - depth
    ready = (statistics.confidence[how.exit_index] >= how.threshold).tolist()
    stands = statistics.agrees[how.exit_index].tolist()
    found = []
    for start, length in zip(statistics.starts.tolist(), statistics.lengths.tolist(), strict=True):
        at, end = start, start + length
        total = costs.first_use * layers
        while at < end:
            run, right = 0, 0
            while run < how.length and at + run < end and ready[at + run]:
                right += right == run and stands[at + run]
                run += 1
            # The block: the run and, unless it reached the end of the answer, the position after it.
            width = run + (at + run < end)
            total += run * begun
            if width > run:
                total += begun
            total += costs.fixed + (above + costs.exit_check) * (1 + costs.extra_position * (width - 1))
            at += right + 1 if right < width else width
        found.append(total)
    return np.array(found)


def best_draft(statistics: ExitStatistics, costs: Costs) -> Draft | None:
    """The cheapest way to draft on these tokens; None where none is cheaper than full depth.

    Args:
        statistics: of `record_exits`.
        costs: of `measure_costs`.
    """
    best, found = cost_of_examples(statistics, NEVER_EXIT, costs).sum(), None
    for index in range(len(statistics.exit_layers) - 1):
        values = np.unique(np.quantile(statistics.confidence[index], np.linspace(0, 0.95, THRESHOLDS)))
        for threshold in values:
            for length in LENGTHS:
                how = Draft(index, float(threshold), length)
                cost = draft_costs(statistics, how, costs).sum()
                if cost < best:
                    best, found = cost, how
    return found
