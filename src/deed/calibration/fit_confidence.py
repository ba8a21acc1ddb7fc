"""Fits the confidence of answers: a logistic regression on their features, then a map that makes its numbers mean it.

The map (beta calibration, Kull et al. 2017) is fitted on scores of examples that the regression has not seen: by
cross-fitting, whole groups at a time, since questions about one page are alike. The same scores say whether squares and
products of features help. Targets are smoothed and coefficients drawn to
their defaults (Platt 1999; ridge), so that a few hundred examples are enough and a set without one wrong answer fits, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch

from deed.modeling.answer_confidence import NAMES, AnswerConfidence, source_distance

FOLDS = 5
RIDGE = {False: 1.0, True: 5.0}  # of the regression's coefficients, on features alone or with products
MAP_RIDGE = 1.0  # of the map's
LEAST_RIGHT = 20  # right answers from which their sources are what distance is measured from; fewer: all sources
DIGITS = 6  # significant ones of stored numbers

Array = np.ndarray[Any, np.dtype[np.float64]]


def fit_confidence(
    features: torch.Tensor, states: torch.Tensor, right: Any, groups: Sequence[Hashable]
) -> tuple[AnswerConfidence, Array]:
    """A model of how likely answers are to be right; its settings, promise and report are not set.

    Args:
        features: `[n, len(FEATURES)]`, of `AnswerWatch.features`.
        states: `[n, d_model]`, of `source_states`.
        right: `[n]` bool.
        groups: `[n]`, what belongs together (the page a question is about).

    Returns:
        The model, and `[n]` the confidence in each example from models that have not seen its group.
    """
    answers, fold = np.asarray(right, dtype=bool), folds(groups, FOLDS)
    unseen = {}  # log-odds from models that have not seen an example's group
    for products in RIDGE:
        unseen[products] = np.zeros(len(answers))
        for k in np.unique(fold):
            rest = torch.from_numpy(fold != k)
            part = _regression(features[rest], states[rest], answers[fold != k], products)
            unseen[products][fold == k] = part.raw(features[~rest], states[~rest]).numpy()
    products = min(unseen, key=lambda kind: _log_loss(unseen[kind], answers))
    model, scores = _regression(features, states, answers, products), unseen[products]
    model.map = _rounded(_beta_map(scores, answers))
    return model, model.mapped(torch.from_numpy(scores)).numpy()


def folds(groups: Sequence[Hashable], count: int) -> Array:
    """`[n]`: a fold 0..count-1 for each example; groups stay whole, and the same group always comes into the same fold of as
    many."""
    return np.array([zlib.crc32(repr(group).encode()) % count for group in groups])


def logistic(columns: Array, targets: Array, start: Array, ridge: Array, steps: int = 50) -> Array:
    """Coefficients `[k]` of a logistic regression, drawn to `start`, by Newton's method.

    Args:
        columns: `[n, k]`.
        targets: `[n]` in [0, 1].
        start: `[k]`.
        ridge: `[k]`, how strongly each is drawn there.
        steps: at most.
    """

    def loss(w: Array) -> float:
        z = columns @ w
        return float((np.logaddexp(0, z) - targets * z).sum() + (ridge * (w - start) ** 2).sum() / 2)

    weights = start.astype(np.float64)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(columns @ weights, -500, 500)))
        slope = columns.T @ (p - targets) + ridge * (weights - start)
        curve = (columns * (p * (1 - p))[:, None]).T @ columns + np.diag(ridge + 1e-9)
        step, size = np.linalg.solve(curve, slope), 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return weights


def _log_loss(scores: Array, right: Any) -> float:
    return float((np.logaddexp(0, scores) - right * scores).mean())


def _regression(features: torch.Tensor, states: torch.Tensor, right: Any, products: bool) -> AnswerConfidence:
    known = states.double()[torch.from_numpy(right)] if right.sum() >= LEAST_RIGHT else states.double()
    variance = known.var(0, unbiased=False)
    mean, variance = known.mean(0), variance + 1e-3 * variance.mean() + 1e-9
    columns = torch.cat([features.double(), source_distance(states, mean, variance)[:, None]], 1).numpy()
    center, scale = columns.mean(0), columns.std(0)
    used = np.flatnonzero(scale > 1e-9)  # what never changes says nothing
    model = AnswerConfidence(
        features=[NAMES[i] for i in used],
        center=_rounded(center[used]),
        scale=_rounded(scale[used]),
        weights=[],
        bias=0.0,
        products=products,
        map=[1.0, 1.0, 0.0],
        source_mean=_rounded(mean.numpy()),
        source_variance=_rounded(variance.numpy()),
    )
    inputs = model.terms(features, states).numpy()
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    ridge = np.array([RIDGE[products]] * (inputs.shape[1] - 1) + [0.0])
    *weights, bias = _rounded(logistic(inputs, _smoothed(right), np.zeros(inputs.shape[1]), ridge))
    model.weights, model.bias = weights, bias
    return model


def _beta_map(scores: Array, right: Any) -> Array:
    """`[a, b, c]` of the map for log-odds; where a coefficient would be negative it is 0, so that the map never falls."""
    columns = np.column_stack([-np.logaddexp(0, -scores), np.logaddexp(0, scores), np.ones(len(scores))])
    start, kept = np.array([1.0, 1.0, 0.0]), np.array([True, True, True])
    while True:
        found = np.zeros(3)
        ridge = np.array([MAP_RIDGE, MAP_RIDGE, 0.0])[kept]
        found[kept] = logistic(columns[:, kept], _smoothed(right), start[kept], ridge)
        if found[:2].min() >= 0:
            return found
        kept[int(found[:2].argmin())] = False


def _smoothed(right: Any) -> Array:
    """Targets of Platt (1999): as if one example more were wrong, and one right."""
    n_right, n_wrong = right.sum(), (~right).sum()
    return np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, dtype=np.float64)]
