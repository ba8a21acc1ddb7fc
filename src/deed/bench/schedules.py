"""The depths that forced schedules go through: drawn at random, or recorded from real answers."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence

import torch

from .shapes import build, shape_of


def truncated_geometric(mean: float, n_layers: int) -> list[float]:
    """Probabilities of depths 1..n_layers proportional to `(1 - p)^(depth - 1)`, p such that the mean is `mean`.

    Raises:
        ValueError: a mean that no p in [0, 1] gives.
    """
    if not 1 <= mean <= (n_layers + 1) / 2:
        raise ValueError(f"mean depth must lie in 1..{(n_layers + 1) / 2:g} for {n_layers} layers, got {mean:g}")

    def weights(p: float) -> list[float]:
        values = [(1 - p) ** d for d in range(n_layers)]
        return [v / sum(values) for v in values]

    low, high = 0.0, 1.0  # the mean falls with p
    for _ in range(100):
        middle = (low + high) / 2
        if sum(d * w for d, w in enumerate(weights(middle), 1)) > mean:
            low = middle
        else:
            high = middle
    return weights((low + high) / 2)


def geometric_schedule(mean: float, n_layers: int, rows: int, steps: int, seed: int = 0) -> list[list[int]]:
    """`[rows][steps]` independent depths of `truncated_geometric`.

    Args:
        mean: of the depths, 1 to (n_layers + 1) / 2.
        n_layers: of the decoder.
        rows, steps: size of the table.
        seed: of the draw.
    """
    probabilities = truncated_geometric(mean, n_layers)
    draw = random.Random(seed).choices(range(1, n_layers + 1), probabilities, k=rows * steps)
    return [draw[r * steps : (r + 1) * steps] for r in range(rows)]


@functools.cache
def recorded_answers(name: str, count: int = 32) -> tuple[list[list[int]], int]:
    """Depths of the tokens of real answers by a shipped model at its calibrated threshold, and its number of layers.

    Raises:
        NotAvailable: no real inputs here.
    """
    shape = shape_of(name)
    _, model = build(shape)
    inputs = shape.inputs(model, count, torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, num_beams=1, return_dict_in_generate=True)
    answers = [[d for d in row if d] for row in out.exit_layers.tolist()]
    return answers, len(model.deed_family.layers(model))


def replayed(answers: Sequence[Sequence[int]], of: int, n_layers: int, rows: int, steps: int) -> list[list[int]]:
    """`[rows][steps]` recorded depths, answer after answer.

    Args:
        answers: depths of recorded answers.
        of: layers of the decoder that they were recorded from.
        n_layers: of the decoder that they are stretched to.
        rows, steps: size of the table.
    """
    schedule: list[list[int]] = []
    for r in range(rows):
        depths: list[int] = []
        i = r
        while len(depths) < steps:
            depths += [math.ceil(d * n_layers / of) for d in answers[i % len(answers)]]
            i += rows
        schedule.append(depths[:steps])
    return schedule
