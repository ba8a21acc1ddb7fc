"""Held-out examples in `deed tune --recipe`: agreement of each exit with the untouched model, depth over changed tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deed.calibration.exit_statistics import ExitStatistics
from deed.calibration.step_costs import Costs
from deed.calibration.threshold_search import evaluate, search_thresholds
from deed.exits.draft_head import draft_logits, exit_head_cost, layer_products

from .tune_batch import Batch
from .tune_recipe import BUDGETS

LOGITS_AT_ONCE = 2**23
# Layers alone: an exit that is asked costs its own layer, also where it is refused; a head costs nothing.
LAYERS_ONLY = Costs(exit_check=0.0, extra_position=0.0)
LAYERS_AND_OWN = Costs(exit_check=0.0, extra_position=0.0, exit_layer=1.0)


@dataclass(frozen=True)
class Found:
    """What exits say at every token, teacher-forced.

    Attributes:
        statistics: of the exits before the last, against the untouched model; an example is a sequence.
        tokens: `[tokens]`, those that follow.
        last: `[tokens]` bool, whether the last layer says what the untouched model says; all where it cannot differ.
    """

    statistics: ExitStatistics
    tokens: np.ndarray
    last: np.ndarray

    @property
    def drift(self) -> float:
        """Share of tokens on which the last layer has come to say something else."""
        return float(1 - self.last.mean())

    def agreement(self) -> dict[str, float]:
        """By depth."""
        layers = self.statistics.exit_layers
        found = {str(d): float(a.mean()) for d, a in zip(layers, self.statistics.agrees, strict=False)}
        return found if self.last.all() else {**found, str(layers[-1]): float(self.last.mean())}

    def and_of(self, other: Found) -> Found:
        """These examples and others."""
        a, b = self.statistics, other.statistics
        both = ExitStatistics(
            np.concatenate([a.confidence, b.confidence], 1),
            np.concatenate([a.agrees, b.agrees], 1),
            np.concatenate([a.lengths, b.lengths]),
            list(a.exit_layers),
        )
        return Found(both, np.concatenate([self.tokens, other.tokens]), np.concatenate([self.last, other.last]))


def costs_of(model: Any) -> Costs:
    """What depth counts of a model: its layers, and those of exits."""
    return LAYERS_AND_OWN if model.deed_config.adapter == "layer" else LAYERS_ONLY


@torch.no_grad()
def statistics_of(
    model: Any, batches: Sequence[Batch], features_of: Callable[[Batch], dict[int, torch.Tensor]]
) -> Found:
    """Confidence (the largest probability) and agreement of every exit at every token.

    Args:
        model: a deed model, in evaluation mode.
        batches: of held-out examples.
        features_of: what the head gets of each exit at a batch's chosen positions, by depth.
    """
    *depths, deepest = model.deed_config.exit_layers
    confidence: dict[int, list[np.ndarray]] = {depth: [] for depth in depths}
    agrees: dict[int, list[np.ndarray]] = {depth: [] for depth in (*depths, deepest)}
    lengths, tokens = [], []
    for batch in batches:
        features = features_of(batch)
        agrees[deepest].append(np.ones(len(batch.labels), dtype=bool))
        for depth, values in features.items():
            sure, best = likeliest(model, depth, values)
            same = (best == batch.teacher.ids[:, 0]).numpy()
            if depth == deepest:
                agrees[depth][-1] = same
            else:
                confidence[depth].append(sure.numpy())
                agrees[depth].append(same)
        lengths += torch.unique_consecutive(batch.sequence, return_counts=True)[1].tolist()
        tokens.append(batch.labels.numpy())
    found = ExitStatistics(
        np.stack([np.concatenate(confidence[depth]) for depth in depths]),
        np.stack([np.concatenate(agrees[depth]) for depth in depths]),
        np.array(lengths),
        list(model.deed_config.exit_layers),
    )
    return Found(found, np.concatenate(tokens), np.concatenate(agrees[deepest]))


def likeliest(model: Any, depth: int, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probability of an exit and its token, `[n]` each: by the draft head, where there is one.

    Args:
        model: a deed model.
        depth: of the exit.
        features: what the head gets, `[n, d_model]`.
    """
    family = model.deed_family
    draft = None if depth == model.deed_config.exit_layers[-1] else draft_logits(model)
    size = max(1, LOGITS_AT_ONCE // family.vocab_size(model))
    sure, best = [], []
    for part in features.split(size):
        logits = (family.head(model, part) if draft is None else draft(part)).float()
        top, at = logits.max(-1)
        sure.append((top - logits.logsumexp(-1)).exp())
        best.append(at)
    return torch.cat(sure), torch.cat(best)


def leaving(statistics: ExitStatistics, thresholds: Sequence[float]) -> np.ndarray:
    """`[tokens]`, the index of the exit that each token leaves at, that of the last where at none before."""
    left = np.full(statistics.tokens, len(statistics.exit_layers) - 1)
    for e in reversed(range(len(statistics.exit_layers) - 1)):
        left[statistics.confidence[e] >= thresholds[e]] = e
    return left


def changed(found: Found, thresholds: Sequence[float]) -> np.ndarray:
    """`[tokens]` bool, whether what comes out is another token than the untouched model's."""
    left = leaving(found.statistics, thresholds)
    agrees = np.concatenate([found.statistics.agrees, found.last[None]])
    return ~agrees[left, np.arange(len(left))]


def summary(found: Found, costs: Costs) -> dict[str, Any]:
    """Agreement by depth, and the depth, own layers counted, at which shares of tokens change.

    Args:
        found: held out.
        costs: of `costs_of`.

    Returns:
        `{"agreement": {depth: share}, "depth": {budget: share of the layers}, "score": their mean}`, lower is better; where
        depths are alike, the higher agreement tells.
    """
    layers, depth = found.statistics.exit_layers[-1], {}
    left = [max(0.0, budget - found.drift) for budget in BUDGETS]  # what the last layer changes is not left for exits
    for budget, choice in zip(BUDGETS, search_thresholds(found.statistics, costs, left, hold_out=False), strict=True):
        depth[f"{budget:g}"] = choice.tuning["cost"] / layers
    agreement = found.agreement()
    score = float(np.mean(list(depth.values()))) + 0.01 * (1 - float(np.mean(list(agreement.values()))))
    return {"agreement": agreement, "depth": depth, "score": score}


def share_of_products(found: Found, thresholds: Sequence[float], model: Any) -> float:
    """What decoding takes at thresholds, heads included, in shares of full depth's: counted in a layer's products of one
    position, catching up left out.

    Args:
        found: teacher-forced.
        thresholds: one per exit before the last.
        model: says what its heads and exits' layers are worth.
    """
    statistics, family = found.statistics, model.deed_family
    left, depths = leaving(statistics, thresholds), np.array(statistics.exit_layers)
    checked = np.cumsum([t <= 1 for t in thresholds])
    asked = np.array([*checked, checked[-1]])[left]  # exits before the last that a token is asked at
    own = 1.0 if model.deed_config.adapter == "layer" else 0.0
    layer = layer_products(family.layers(model)[-1])
    head = family.d_model(model) * family.vocab_size(model) / layer
    last = left == len(depths) - 1
    taken = depths[left].mean() + asked.mean() * (own + exit_head_cost(model)) + last.mean() * head
    return float(taken / (depths[-1] + head))


def choose(model: Any, chosen_on: Found, counted_on: Found, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """Thresholds chosen on some examples, and what they do on others.

    Args:
        model: whose exits they are.
        chosen_on, counted_on: of different examples.
        budgets: shares of tokens that may change.
    """
    layers, costs, rows = chosen_on.statistics.exit_layers[-1], costs_of(model), list[dict[str, Any]]()
    left = [max(0.0, budget - chosen_on.drift) for budget in budgets]
    for budget, choice in zip(
        budgets, search_thresholds(chosen_on.statistics, costs, left, hold_out=False), strict=True
    ):
        counted = evaluate(counted_on.statistics, choice.thresholds, costs)
        rows.append(
            {
                "budget": budget,
                "thresholds": choice.thresholds,
                "changed": float(changed(counted_on, choice.thresholds).mean()),
                "depth": counted["cost"] / layers,
                "exit_depth": counted["mean_depth"] / layers,
                "with_heads": share_of_products(counted_on, choice.thresholds, model),
            }
        )
    return rows
