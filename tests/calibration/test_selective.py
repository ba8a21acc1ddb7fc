"""Selective answering: p-values, the fixed sequence, the promise by simulation, and that more risk never allows less."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deed.calibration.calibrate_answers import fit_and_certify
from deed.calibration.selective import (
    ALL,
    accepted_thresholds,
    choose_threshold,
    selective_p_value,
    selective_risk,
    threshold_orders,
)
from deed.modeling.answer_confidence import NEVER_SURE
from deed.modeling.answer_watch import FEATURES


def test_p_value_against_scipy():
    confidences = [0.9] * 40 + [0.5] * 60
    right = [True] * 38 + [False] * 2 + [True] * 60
    assert selective_p_value(confidences, right, 0.9, 0.1) == pytest.approx(stats.binom.cdf(2, 40, 0.1))
    assert selective_p_value(confidences, right, 0.5, 0.1) == pytest.approx(stats.binom.cdf(2, 100, 0.1))
    assert selective_p_value(confidences, right, 0.95, 0.1) == 1.0, "no answer, no evidence"


def test_selective_risk():
    found = selective_risk([0.9, 0.8, 0.8, 0.2], [True, True, False, False], 0.8)
    assert found == {"coverage": 0.75, "given": 3, "selective_risk": pytest.approx(1 / 3)}
    assert selective_risk([0.5], [True], 0.9) == {"coverage": 0.0, "given": 0, "selective_risk": None}


def test_the_sequence_ends_at_the_first_failure():
    """0.9 passes, 0.6 does not; 0.3, which would pass again, is not looked at."""
    confidences = [0.9] * 60 + [0.6] * 20 + [0.3] * 900
    right = [True] * 60 + [False] * 20 + [True] * 900
    accepted, tested = accepted_thresholds(confidences, right, [0.9, 0.6, 0.3], 0.1, 0.95)
    assert accepted == [0.9] and [row["threshold"] for row in tested] == [0.9, 0.6]
    assert [(row["given"], row["wrong"], row["accepted"]) for row in tested] == [(60, 0, True), (80, 20, False)]
    assert choose_threshold(confidences, right, [ALL] * 980, {ALL: [0.9, 0.6, 0.3]}, 0.1, 0.95)[:2] == (0.9, [])


def test_each_part_keeps_the_promise_by_itself_or_is_said_not_to():
    confidences = [0.95] * 200 + [0.7] * 100 + [0.95] * 100 + [0.7] * 100
    right = [True] * 400 + [i % 2 > 0 for i in range(100)]
    parts = ["a"] * 300 + ["b"] * 200
    order = [0.95, 0.7]
    everything = {ALL: order, "a": order, "b": order}
    assert choose_threshold(confidences, right, parts, {ALL: order}, 0.2, 0.95)[:2] == (0.7, []), "all together"
    assert choose_threshold(confidences, right, parts, everything, 0.2, 0.95)[:2] == (0.95, ["a", "b"])
    late = {ALL: order, "a": order, "b": [0.7]}  # b begins where it fails: it keeps none, and no other loses its own
    assert choose_threshold(confidences, right, parts, late, 0.2, 0.95)[:2] == (0.95, ["a"]), "not below 1 - risk then"
    assert choose_threshold(confidences, right, parts, late, 0.35, 0.95)[:2] == (0.7, ["a", "b"])
    low = {ALL: [0.7], "a": [0.7], "b": [0.7]}
    assert choose_threshold(confidences, right, parts, low, 0.2, 0.95)[0] is None, "0.7 would do, but not for b"


def test_orders_begin_where_a_test_is_likely_to_pass():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 600)
    confidences = np.concatenate([sure, rng.uniform(0, 1, 200)])
    right = np.concatenate([rng.random(600) < sure, np.zeros(200, dtype=bool)])
    parts = ["pages"] * 600 + ["strange"] * 200
    orders = threshold_orders(confidences, right, parts, 0.3, 0.95, 1.0)
    assert set(orders) == {ALL, "pages", "strange"} and all(o == sorted(o, reverse=True) for o in orders.values())
    assert orders["pages"][0] == 0.7 or orders["pages"][0] > 0.7, "likely to pass at 1 - risk: not begun below it"
    chosen, promised, _ = choose_threshold(confidences, right, parts, orders, 0.3, 0.95)
    assert chosen >= 0.7 and promised == ["pages"]
    assert set(threshold_orders(sure, right[:600], parts[:600], 0.3, 0.95, 1.0)) == {ALL}, "one part is all there is"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 0.4), st.floats(0.01, 0.3), st.integers(30, 200))
def test_more_risk_never_allows_less(seed, risk, more, n):
    rng = np.random.default_rng(seed)
    confidences = rng.random(n)
    right = rng.random(n) < np.sqrt(confidences)
    order = sorted({round(float(c), 3) for c in confidences if c > 0.2}, reverse=True)[4:]
    strict, loose = (accepted_thresholds(confidences, right, order, r, 0.9)[0] for r in (risk, risk + more))
    assert loose[: len(strict)] == strict
    surer = accepted_thresholds(confidences, right, order, risk, 0.97)[0]
    assert strict[: len(surer)] == surer
    for level, following in itertools.pairwise(order):
        a, b = (selective_risk(confidences, right, t)["coverage"] for t in (level, following))
        assert a <= b


def made(n, rng):
    """Answers with a known probability of being right, which two features show and one blurs."""
    ability = rng.normal(size=n)
    features = rng.normal(size=(n, len(FEATURES)))
    features[:, 1] = ability + 0.3 * rng.normal(size=n)
    features[:, 5] = -ability + 0.3 * rng.normal(size=n)
    states = rng.normal(size=(n, 4))
    right = rng.random(n) < 1 / (1 + np.exp(-(4 * ability + 2)))
    return torch.tensor(features), torch.tensor(states), right


def test_the_promise_holds_over_many_calibration_sets():
    """300 calibration sets: at most one in twenty may choose a threshold whose share of wrong answers, measured on 20,000 new
    ones, is above the risk; and the procedure must not buy that by never answering."""
    rng = np.random.default_rng(0)
    runs, n, risk, broken, coverage = 300, 400, 0.1, 0, []
    new_features, new_states, new_right = made(20_000, rng)
    for _ in range(runs):
        features, states, right = made(n, rng)
        model = fit_and_certify(features, states, right, range(n), [""] * n, risk, 0.95)
        if model.abstain_below == NEVER_SURE:
            coverage.append(0.0)
            continue
        found = selective_risk(model(new_features, new_states).numpy(), new_right, model.abstain_below)
        coverage.append(found["coverage"])
        broken += found["given"] > 0 and found["selective_risk"] > risk
    tolerance = 3 * np.sqrt(0.05 * 0.95 / runs)
    assert broken / runs <= 0.05 + tolerance, f"{broken} of {runs} broken"
    assert np.mean(coverage) > 0.3 and np.mean(np.array(coverage) > 0) > 0.8
    # Without the test (as sure as the confidence says) the promise would not hold: the check above can fail.
    careless = 0
    for _ in range(40):
        features, states, right = made(n, rng)
        model = fit_and_certify(features, states, right, range(n), [""] * n, risk, 0.95)
        values = model(features, states).numpy()
        level = min(t for t in np.unique(values) if right[values >= t].mean() >= 1 - risk)
        careless += selective_risk(model(new_features, new_states).numpy(), new_right, level)["selective_risk"] > risk
    assert careless / 40 > 0.2


def test_where_nothing_can_be_promised_the_model_is_never_sure():
    rng = np.random.default_rng(0)
    features, states, _ = made(400, rng)
    model = fit_and_certify(features, states, rng.random(400) < 0.5, range(400), [""] * 400, 0.1, 0.95)
    assert model.abstain_below == NEVER_SURE and model.report["given"] == 0 and model.report["selective_risk"] is None
    assert not (model(features, states) >= model.abstain_below).any()
