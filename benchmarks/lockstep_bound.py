"""How many runs of a layer a batch needs when rows leave at independent depths: in step, as deed decodes, and when rows may
run ahead of one another. Counted, not timed: a run costs about the same for one row as for eight, since it reads the weights.

    python benchmarks/lockstep_bound.py > benchmarks/results/lockstep_bound.txt
"""

import statistics
from collections.abc import Callable

import numpy as np

from deed.bench.schedules import geometric_schedule

LAYERS, TOKENS, MEAN, SEEDS = 12, 32, 3.0, 5
# Which layer runs next, of those that rows `{layer: rows}` wait for.
ORDERS: dict[str, Callable[[dict[int, list[int]]], int]] = {
    "shallowest first": min,
    "most rows first, deeper of equals": lambda waiting: max(waiting, key=lambda at: (len(waiting[at]), at)),
    "most rows first, shallower of equals": lambda waiting: max(waiting, key=lambda at: (len(waiting[at]), -at)),
}


def in_step(depths: np.ndarray) -> int:
    """Runs when all rows write their tokens together: a layer runs if any row goes there. `depths` is `[rows, tokens]`."""
    return int(depths.max(axis=0).sum())


def running_ahead(depths: np.ndarray, choose: Callable[[dict[int, list[int]]], int]) -> int:
    """Runs when every row goes on by itself, and rows that wait for the same layer share its run."""
    rows, tokens = depths.shape
    at, layer, runs = [0] * rows, [0] * rows, 0
    while any(t < tokens for t in at):
        waiting: dict[int, list[int]] = {}
        for row in range(rows):
            if at[row] < tokens:
                waiting.setdefault(layer[row], []).append(row)
        for row in waiting[choose(waiting)]:
            layer[row] += 1
            if layer[row] >= depths[row, at[row]]:
                layer[row], at[row] = 0, at[row] + 1
        runs += 1
    return runs


def main() -> None:
    print(
        f"{LAYERS} layers, {TOKENS} tokens, independent depths of mean {MEAN:g}: full depth's runs over these, {SEEDS} seeds"
    )
    for rows in (8, 32):
        drawn = [np.array(geometric_schedule(MEAN, LAYERS, rows, TOKENS, seed)) for seed in range(SEEDS)]
        full = LAYERS * TOKENS
        print(f"batch {rows}, in step: {statistics.mean(full / in_step(d) for d in drawn):.2f}")
        for name, choose in ORDERS.items():
            ratio = statistics.mean(full / running_ahead(d, choose) for d in drawn)
            print(f"batch {rows}, running ahead, {name}: {ratio:.2f}")


if __name__ == "__main__":
    main()
