"""Fitting answer confidence: the regression against scipy, the map, groups that stay whole, and sets with nothing to learn."""

import numpy as np
import pytest
import torch
from scipy import optimize

from deed.calibration import fit_confidence as module
from deed.calibration.fit_confidence import fit_confidence, folds, logistic
from deed.calibration.reliability import reliability
from deed.modeling.answer_watch import FEATURES

WIDTH = 8


def made(n, seed=0, informative=True):
    """Answers whose probability of being right is known; sources of answers that go wrong lie further away."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, len(FEATURES)))
    distance = rng.random(n)
    odds = 2.0 * features[:, 1] - 1.0 * features[:, 6] - 3.0 * (distance - 0.5) + 0.5 if informative else np.zeros(n)
    truth = 1 / (1 + np.exp(-odds))
    states = rng.normal(size=(n, WIDTH)) * (1 + 3 * distance[:, None])
    return torch.tensor(features), torch.tensor(states), rng.random(n) < truth, truth


def test_logistic_against_scipy():
    rng = np.random.default_rng(0)
    columns, targets = rng.normal(size=(60, 4)), rng.random(60)
    start, ridge = np.array([0.5, 0.0, -1.0, 0.0]), np.array([1.0, 3.0, 0.2, 0.0])

    def loss(w):
        z = columns @ w
        return (np.logaddexp(0, z) - targets * z).sum() + (ridge * (w - start) ** 2).sum() / 2

    found = logistic(columns, targets, start, ridge)
    assert found == pytest.approx(optimize.minimize(loss, start, tol=1e-12).x, abs=1e-4)


def test_logistic_converges_where_the_classes_can_be_told_apart():
    columns = np.column_stack([np.linspace(-9, 9, 50), np.ones(50)])
    targets, ridge = (columns[:, 0] > 0).astype(float), np.array([1e-3, 1e-3])
    found = logistic(columns, targets, np.zeros(2), ridge)
    p = 1 / (1 + np.exp(-columns @ found))
    assert np.abs(columns.T @ (p - targets) + ridge * found).max() < 1e-6 and ((p > 0.5) == (targets > 0.5)).all()


@pytest.mark.parametrize("n", [150, 600])
def test_confidence_of_new_answers_means_what_it_says(n):
    features, states, right, _ = made(n)
    model, seen = fit_confidence(features, states, right, range(n))
    new_features, new_states, new_right, truth = made(6000, seed=1)
    values = model(new_features, new_states).numpy()
    found = reliability(values, new_right)
    assert found["ece"] < (0.06 if n < 300 else 0.03)
    assert found["auroc"] > reliability(truth, new_right)["auroc"] - (0.05 if n < 300 else 0.02)
    assert reliability(seen, right)["ece"] < 0.1 and seen.shape == (n,)
    assert "source_distance" in model.features and model.weights[model.features.index("source_distance")] < -0.1
    assert not model.products and len(model.weights) == len(model.features), "there is nothing in products"


def test_products_are_used_where_they_help():
    """The same log-probability means more in a short source than in a long one."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(900, len(FEATURES)))
    odds = 2.0 * features[:, 1] * np.where(features[:, FEATURES.index("log_source")] < 0, 1, -1)
    right = rng.random(900) < 1 / (1 + np.exp(-odds))
    states = torch.tensor(rng.normal(size=(900, WIDTH)))
    model, seen = fit_confidence(torch.tensor(features), states, right, range(900))
    assert model.products and len(model.weights) == 4 * len(model.features)
    assert reliability(seen, right)["auroc"] > 0.75


def test_the_map_is_fitted_on_scores_of_unseen_groups():
    """With groups that are copies of one example, scores of seen groups would be far too sure: of n examples there are only
    n / 20 to learn from."""
    features, states, right, _ = made(40, informative=False)
    many = [x.repeat_interleave(20, 0) for x in (features, states)]
    truth = np.repeat(right, 20)
    model, _ = fit_confidence(*many, truth, np.repeat(np.arange(40), 20).tolist())
    spread = model(*many).std().item()
    assert spread < 0.2, "features that say nothing leave hardly any confidence but the share of right answers"
    careless, _ = fit_confidence(*many, truth, range(800))
    assert careless(*many).std().item() > 2 * spread


def test_folds_keep_groups_whole():
    groups = [("page", i // 5) for i in range(200)]
    found = folds(groups, 5)
    assert all(len(set(found[i : i + 5])) == 1 for i in range(0, 200, 5)) and set(found) == set(range(5))
    assert (found == folds(groups, 5)).all()


@pytest.mark.parametrize("right", [True, False])
def test_a_set_of_one_kind_fits_too(right):
    features, states, _, _ = made(80)
    model, _ = fit_confidence(features, states, np.full(80, right), range(80))
    values = model(features, states)
    assert (values > 0.9).all() if right else (values < 0.1).all()
    assert torch.isfinite(values).all()


def test_features_that_never_change_are_left_out_and_outliers_count_no_more_than_seen_ones():
    features, states, right, _ = made(200)
    features[:, 3] = 0.7
    model, _ = fit_confidence(features, states, right, range(200))
    assert FEATURES[3] not in model.features and len(model.features) == len(FEATURES)
    far = features.clone()
    far[:, 1] = -1e9
    values = model(far, states * 1e6)
    assert torch.isfinite(values).all() and (values < 0.5).float().mean() > 0.95
    farther = features.clone()
    farther[:, 1] = -1e12
    assert torch.equal(values, model(farther, states * 1e9)), "what lies far outside counts as what lies at the edge"


def test_a_map_that_would_fall_is_flat_instead():
    scores = np.linspace(-3, 3, 200)
    a, b, _ = module._beta_map(scores, scores < 0)  # the surer, the less often right
    assert a >= 0 and b >= 0 and max(a, b) < 0.1
