"""Expected calibration error and its table, by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats

from deed.calibration.reliability import reliability


def test_by_hand():
    confidences = [0.05, 0.05, 0.3, 0.95, 0.95, 1.0]
    right = [False, True, False, True, True, False]
    found = reliability(confidences, right, bins=10)
    # bins 0 (two of 0.05, half right), 3 (one), 9 (three, two right)
    assert [(row["examples"], row["accuracy"]) for row in found["bins"]] == [
        (2, 0.5),
        (1, 0.0),
        (3, pytest.approx(2 / 3)),
    ]
    gaps = 2 * 0.45 + 1 * 0.3 + 3 * abs(2.9 / 3 - 2 / 3)
    assert found["ece"] == pytest.approx(gaps / 6)
    assert found["brier"] == pytest.approx(sum((c - r) ** 2 for c, r in zip(confidences, right, strict=True)) / 6)
    # as many bins as examples: each by itself
    assert found["adaptive_ece"] == pytest.approx(sum(abs(c - r) for c, r in zip(confidences, right, strict=True)) / 6)
    assert (found["examples"], found["accuracy"]) == (6, 0.5)


def test_auroc_is_mann_whitneys():
    rng = np.random.default_rng(0)
    values = rng.random(200).round(1)  # with ties
    right = rng.random(200) < values
    u = stats.mannwhitneyu(values[right], values[~right]).statistic
    assert reliability(values, right)["auroc"] == pytest.approx(u / (right.sum() * (~right).sum()))
    assert reliability([0.3, 0.4], [True, True])["auroc"] is None


def test_confidence_that_means_what_it_says_has_a_small_error_and_one_that_does_not_a_large_one():
    rng = np.random.default_rng(0)
    values = rng.random(20000)
    right = rng.random(20000) < values
    for name in ("ece", "adaptive_ece"):
        assert reliability(values, right)[name] < 0.015
        assert reliability(np.sqrt(values), right)[name] == pytest.approx(np.mean(np.sqrt(values) - values), abs=0.015)


@pytest.mark.parametrize(
    ("values", "right"), [([], []), ([0.5], []), ([1.2], [True]), ([-0.1], [True]), ([float("nan")], [True])]
)
def test_bad_input(values, right):
    with pytest.raises(ValueError, match="a confidence in \\[0, 1\\] for each answer"):
        reliability(values, right)
