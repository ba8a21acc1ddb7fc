"""Held-out examples in `deed tune --recipe`: agreement of each exit, depth over changed tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deed.calibration.exit_statistics import ExitStatistics
from deed.calibration.step_costs import Costs
from deed.calibration.threshold_search import evaluate, search_thresholds
from deed.exits.heads import exit_features
from deed.training.forced import exit_states_from

from .tune_batch import Batch
from .tune_recipe import BUDGETS

LOGITS_AT_ONCE = 2**23
# Layers alone: an exit that is asked costs its own layer, also where it is refused; a head costs nothing.
LAYERS_ONLY = Costs(exit_check=0.0, extra_position=0.0)
LAYERS_AND_OWN = Costs(exit_check=0.0, extra_position=0.0, exit_layer=1.0)


def costs_of(model: Any) -> Costs:
    """What depth counts of a model: its layers, and those of exits."""
    return LAYERS_AND_OWN if model.deed_config.adapter == "layer" else LAYERS_ONLY


@torch.no_grad()
def statistics_of(model: Any, batches: list[Batch]) -> tuple[ExitStatistics, np.ndarray]:
    """Confidence (the largest probability) and agreement of every exit at every token, teacher-forced.

    Args:
        model: a deed model, in evaluation mode.
        batches: of held-out examples, with states of the exits' depths.

    Returns:
        The statistics, a sequence an example; and the tokens that follow, `[tokens]`.
    """
    depths = model.deed_config.exit_layers[:-1]
    confidence: dict[int, list[np.ndarray]] = {depth: [] for depth in depths}
    agrees: dict[int, list[np.ndarray]] = {depth: [] for depth in depths}
    lengths, tokens = [], []
    for batch in batches:
        states = exit_states_from(model, batch.source(model), batch.packed, batch.states)
        for depth in depths:
            features = exit_features(model, depth, states[depth][batch.chosen])
            sure, best = likeliest(model, features)
            confidence[depth].append(sure.numpy())
            agrees[depth].append((best == batch.teacher.ids[:, 0]).numpy())
        lengths += torch.unique_consecutive(batch.sequence, return_counts=True)[1].tolist()
        tokens.append(batch.labels.numpy())
    found = ExitStatistics(
        np.stack([np.concatenate(confidence[depth]) for depth in depths]),
        np.stack([np.concatenate(agrees[depth]) for depth in depths]),
        np.array(lengths),
        list(model.deed_config.exit_layers),
    )
    return found, np.concatenate(tokens)


def likeliest(model: Any, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probability and its token, `[n]` each, of what the head gets, `[n, d_model]`."""
    family = model.deed_family
    size = max(1, LOGITS_AT_ONCE // family.vocab_size(model))
    sure, best = [], []
    for part in features.split(size):
        logits = family.head(model, part).float()
        top, at = logits.max(-1)
        sure.append((top - logits.logsumexp(-1)).exp())
        best.append(at)
    return torch.cat(sure), torch.cat(best)


def summary(statistics: ExitStatistics, costs: Costs) -> dict[str, Any]:
    """Agreement by depth, and the depth, own layers counted, at which shares of tokens change.

    Args:
        statistics: held out.
        costs: of `costs_of`.

    Returns:
        `{"agreement": {depth: share}, "depth": {budget: share of the layers}, "score": their mean}`, lower is better; where
        depths are alike, the higher agreement tells.
    """
    layers = statistics.exit_layers[-1]
    depth = {}
    for choice in search_thresholds(statistics, costs, BUDGETS, hold_out=False):
        depth[f"{choice.budget:g}"] = choice.tuning["cost"] / layers
    agreement = {str(d): float(a.mean()) for d, a in zip(statistics.exit_layers, statistics.agrees, strict=False)}
    score = float(np.mean(list(depth.values()))) + 0.01 * (1 - float(np.mean(list(agreement.values()))))
    return {"agreement": agreement, "depth": depth, "score": score}


def choose(statistics: ExitStatistics, costs: Costs, budgets: tuple[float, ...] = BUDGETS) -> list[dict[str, Any]]:
    """Thresholds chosen on one half of the examples, and what they do on the other.

    Args:
        statistics: held out.
        costs: of `costs_of`.
        budgets: shares of tokens that may change.
    """
    layers, (chosen_on, counted_on) = statistics.exit_layers[-1], statistics.halves()
    rows = []
    for choice in search_thresholds(chosen_on, costs, budgets, hold_out=False):
        found = evaluate(counted_on, choice.thresholds, costs)
        rows.append(
            {
                "budget": choice.budget,
                "thresholds": choice.thresholds,
                "changed": 1 - found["agreement"],
                "depth": found["cost"] / layers,
                "exit_depth": found["mean_depth"] / layers,
            }
        )
    return rows
