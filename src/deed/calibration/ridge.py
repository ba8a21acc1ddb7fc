"""Exits fitted in closed form, without training: the ridge regression from what an exit sees to what the last layer gives
the head.

It is the residual linear adapter that costs minutes instead of hours, a lower bound of what training one gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from deed.exits.adapters import ResidualLinear
from deed.modeling.answering import batches
from deed.modeling.forward import exit_states

from .answering import collate
from .teacher_forcing import evaluating, from_answers

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the features' mean variance; the one that errs least on a part held out
HELD_OUT = 4  # every fourth example chooses the penalty


@dataclass
class Moments:
    """Sums over positions of an exit's features x and their way y to the last layer's, `[d, d]` and `[d]` in float64."""

    xx: torch.Tensor
    xy: torch.Tensor
    yy: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    n: int = 0

    @classmethod
    def empty(cls, width: int) -> Moments:
        """Of no positions."""
        square = torch.zeros(width, width, dtype=torch.float64)
        line = torch.zeros(width, dtype=torch.float64)
        return cls(square, square.clone(), torch.zeros((), dtype=torch.float64), line, line.clone())

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take in positions, `[n, d]` each."""
        x, y = x.double().cpu(), y.double().cpu()
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += y.square().sum()
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.n += len(x)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
            self.x + other.x,
            self.y + other.y,
            self.n + other.n,
        )

    def solve(self, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `[out, in]` and bias of the ridge regression of y on x; the bias is not penalized.

        Args:
            penalty: as a share of the features' mean variance.
        """
        mean_x, mean_y = self.x / self.n, self.y / self.n
        xx = self.xx / self.n - torch.outer(mean_x, mean_x)
        xy = self.xy / self.n - torch.outer(mean_x, mean_y)
        level = penalty * xx.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(xx + level * torch.eye(len(xx), dtype=xx.dtype), xy).T
        return weight, mean_y - weight @ mean_x

    def error(self, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """Mean squared distance of `weight x + bias` from y."""
        fitted = (weight @ self.xx * weight).sum() + 2 * (bias @ weight) @ self.x + self.n * bias @ bias
        both = (weight.T * self.xy).sum() + bias @ self.y
        return float((self.yy - 2 * both + fitted) / self.n)


@torch.no_grad()
def fit_ridge(
    model: Any, dataset: Sequence[Mapping[str, Any]], batch_size: int = 8, **generate_kwargs: Any
) -> dict[str, ResidualLinear]:
    """Residual linear adapters for every exit but the last, by least squares on full depth's own answers.

    Args:
        model: a deed model; it stays as it is (`with_adapters` puts them on).
        dataset: examples as for `deed.calibrate`, two or more.
        batch_size: rows at once.
        generate_kwargs: passed to `generate()`.

    Returns:
        Modules by depth, keyed as `model.deed_exits`.

    Raises:
        ValueError: fewer than two examples, no tokens, or exits with layers of their own.
    """
    if len(dataset) < 2:
        raise ValueError("fitting exits takes two examples or more: one is held out to choose the penalty")
    forward = type(model).deed_base.forward  # type: ignore[attr-defined]
    if model.deed_config.adapter == "layer":
        raise ValueError(
            'exits with layers of their own (adapter="layer") are not fitted in closed form; start from the plain model '
            "(deed.unwrap), or train them with deed tune"
        )
    width = model.deed_family.d_model(model)
    exits = model.deed_config.exit_layers[:-1]
    fitted, held = ({depth: Moments.empty(width) for depth in exits} for _ in range(2))
    with evaluating(model):
        for part in batches(dataset, batch_size):
            rows = [dataset[i] for i in part]
            inputs, followed = from_answers(model, collate(model, rows), generate_kwargs)
            out, states = exit_states(model, forward, {**inputs, "use_cache": False, "output_hidden_states": True})
            last = out.decoder_hidden_states[-1]  # what the head gets: Transformers' last entry is normalized
            for into, odd in ((fitted, False), (held, True)):
                at = [j for j, i in enumerate(part) if (i % HELD_OUT == 1) == odd]
                keep = followed[at]
                for depth, state in states.items():
                    x = model.deed_family.final_norm(model, state[at][keep])
                    into[depth].add(x, last[at][keep] - x)
    if not exits or not min(fitted[exits[0]].n, held[exits[0]].n):
        raise ValueError("there is nothing to fit: full depth answered with no tokens, or there is one exit only")
    modules = {}
    for depth in exits:
        penalty = min(PENALTIES, key=lambda p, d=depth: held[d].error(*fitted[d].solve(p)))  # type: ignore[misc]
        weight, bias = (fitted[depth] + held[depth]).solve(penalty)
        module = ResidualLinear(width)
        module.linear.weight.copy_(weight)
        module.linear.bias.copy_(bias)
        modules[str(depth)] = module.to(device=model.device, dtype=model.dtype)
    return modules


@contextmanager
def with_adapters(model: Any, modules: Mapping[str, Any]) -> Iterator[None]:
    """Other adaptation modules on `model` for as long as the context lasts.

    Args:
        model: a deed model.
        modules: by depth, as `fit_ridge` returns them.
    """
    before = {name: model.deed_exits[name] for name in modules}
    for name, module in modules.items():
        model.deed_exits[name] = module
    try:
        yield
    finally:
        for name, module in before.items():
            model.deed_exits[name] = module
