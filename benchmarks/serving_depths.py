"""Rows that leave at different depths, three ways on the clock: in step, with their blocks aligned or packed; and regrouped by
depth, where a row that has left goes on with its next token and those that wait for the same layer share its run
(as in DREX, arXiv 2512.15705). Rows of different length, as in a server, independent depths, the same tokens fed to all.

    python benchmarks/serving_depths.py > benchmarks/results/serving_depths.json
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers.modeling_outputs import BaseModelOutput

import deed.engine.state as state_module
from deed import DeedConfig, FixedSchedule, get_deed_model
from deed.bench.schedules import geometric_schedule
from deed.bench.shapes import build, shape_of
from deed.engine.batch import NewRow, RunningBatch
from deed.engine.exact_pass import feed
from deed.engine.step import run_layer
from deed.utils.timing import machine, spread, versions

TOKENS, SOURCE, ROUNDS = 24, 48, 3
SPAN = state_module.SPAN


class Running:
    """Rows of different length, each filled up to the last layer, about to decode `TOKENS` tokens at scheduled depths."""

    def __init__(self, model, depths: list[list[int]]) -> None:
        self.model, self.depths, rows = model, depths, len(depths)
        width, layers = model.deed_family.d_model(model), len(model.deed_family.layers(model))
        generator = torch.Generator().manual_seed(0)
        self.batch = RunningBatch(model)
        for r, schedule in enumerate(depths):
            source = torch.randn(1, SOURCE - r % 7, width, generator=generator)
            prompt = [0, *range(5, 5 + r * 5 % 17)]
            # The first token fills every layer, and is not timed.
            policy = FixedSchedule([layers, *schedule])
            length = len(prompt) + TOKENS + 2
            self.batch.add(NewRow(BaseModelOutput(source), None, prompt, policy, length))
        self.batch.step([0] * rows)

    def in_step(self) -> None:
        """Every row writes its token, then the next step begins: what the scheduler does."""
        for t in range(TOKENS):
            logits, depths, _ = self.batch.step([7] * len(self.depths))
            logits.argmax(-1).tolist()
            assert depths == [row[t] for row in self.depths]

    @torch.inference_mode()
    def regrouped(self, choose: Callable[[dict[int, list[int]]], int]) -> int:
        """Rows that have left go on; of the layers that rows wait for, the one that `choose` says runs next."""
        cache, plan = self.batch.cache, self.batch.state.plan
        rows, runs = range(len(self.depths)), 0
        written, layer = [0] * len(rows), [0] * len(rows)
        feed(cache, [[7]] * len(rows), list(rows))
        while True:
            waiting: dict[int, list[int]] = {}
            for r in rows:
                if written[r] < TOKENS:
                    waiting.setdefault(layer[r], []).append(r)
            if not waiting:
                return runs
            at = choose(waiting)
            group = waiting[at]
            block = cache.stairs.block(at, group, plan.span_worth, plan.parts is not None)
            output = run_layer(cache, plan.layers[at], block)
            newest = block.newest(output)
            cache.stairs.widen(block, output)
            runs += 1
            done = []
            for i, r in enumerate(group):
                layer[r] += 1
                if layer[r] == self.depths[r][written[r]]:
                    done.append((i, r))
            if done:
                plan.exits.logits(at + 1, newest[[i for i, _ in done]]).argmax(-1).tolist()
                for _, r in done:
                    layer[r], written[r] = 0, written[r] + 1
                going = [r for _, r in done if written[r] < TOKENS]
                if going:
                    feed(cache, [[7]] * len(going), going)


def deeper(waiting: dict[int, list[int]]) -> int:
    """The layer that most rows wait for, the deeper of equals."""
    return max(waiting, key=lambda at: (len(waiting[at]), at))


def shallower(waiting: dict[int, list[int]]) -> int:
    """The layer that most rows wait for, the shallower of equals."""
    return max(waiting, key=lambda at: (len(waiting[at]), -at))


WAYS = {
    "in step, by measured costs": (SPAN, Running.in_step),
    "in step, aligned": (math.inf, Running.in_step),
    "in step, packed": (0.0, Running.in_step),
    "regrouped, deeper first": (SPAN, lambda rows: rows.regrouped(deeper)),
    "regrouped, shallower first": (SPAN, lambda rows: rows.regrouped(shallower)),
}


def measure(model, rows: int, mean: float) -> dict:
    layers = len(model.deed_family.layers(model))
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_ in range(ROUNDS + 1):
        depths = geometric_schedule(mean, layers, rows, TOKENS, seed=round_)
        for name, (span, run) in WAYS.items():
            state_module.SPAN = span
            running = Running(model, depths)
            began = time.perf_counter()
            run(running)
            if round_:  # the first is for warming up
                taken[name].append(rows * TOKENS / (time.perf_counter() - began))
    state_module.SPAN = SPAN
    best = statistics.median(taken["in step, by measured costs"])
    return {
        name: {"tokens_per_s": spread(rates), "ratio": round(statistics.median(rates) / best, 3)}
        for name, rates in taken.items()
    }


def main() -> None:
    wanted = sys.argv[1:] or ["t5-small", "t5-base"]
    found: dict = {"command": "python benchmarks/serving_depths.py", "machine": machine(), "versions": versions()}
    found |= {"tokens": TOKENS, "source": SOURCE, "rounds": ROUNDS, "results": {}}
    for name in wanted:
        base = build(shape_of(name))[0]
        model = get_deed_model(base, DeedConfig()).eval()
        layers = len(model.deed_family.layers(model))
        for rows in (2, 4, 8, 16) if layers < 8 else (4, 16):  # a large model: time
            for mean in (layers / 3, layers / 2):
                case = f"{name}, {rows} rows, mean depth {mean:g} of {layers}"
                found["results"][case] = measure(model, rows, mean)
                print(case, {k: v["ratio"] for k, v in found["results"][case].items()}, file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
