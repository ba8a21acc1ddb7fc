"""Measures and policies on their own (in decoding: test_decode.py)."""

import math

import pytest
import torch

from deed import Ask, Entropy, FixedSchedule, Margin, MaxProb, Patience, StateSimilarity, ThresholdPolicy
from deed.confidence import CONFIDENCES, build_confidence


def ask(logits, allowed=None, hidden=None, previous=None, earlier=(), **fields):
    logits = torch.as_tensor(logits, dtype=torch.float64)
    rows = torch.arange(len(logits))
    hidden = torch.zeros(len(logits), 3) if hidden is None else hidden
    values = {"depth": 2, "exit_index": 1, "is_last": False, "step": 0, "rows": rows, **fields}
    return Ask(**values, hidden=hidden, previous=previous, head=lambda: logits, allowed=allowed, earlier=list(earlier))


P = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]], dtype=torch.float64)


def test_measures_by_hand():
    a = ask(P.log())
    torch.testing.assert_close(MaxProb()(a), torch.tensor([0.7, 0.5], dtype=torch.float64))
    torch.testing.assert_close(Margin()(a), torch.tensor([0.5, 0.0], dtype=torch.float64))
    h = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    expected = torch.tensor([1 - h / math.log(3), 1 - math.log(2) / math.log(3)], dtype=torch.float64)
    torch.testing.assert_close(Entropy()(a), expected)


@pytest.mark.parametrize("name", ["max_prob", "margin", "entropy"])
def test_one_is_certain(name):
    certain = ask([[1e4, 0.0, 0.0]])
    assert build_confidence(name)(certain).item() == pytest.approx(1)
    only = ask([[0.0, 0.0, 0.0]], allowed=torch.tensor([[False, True, False]]))
    assert build_confidence(name)(only).item() == pytest.approx(1)


def test_measures_over_allowed_tokens():
    a = ask(P.log()[:1], allowed=torch.tensor([[False, True, True]]))
    assert MaxProb()(a).item() == pytest.approx(2 / 3)
    assert Margin()(a).item() == pytest.approx(1 / 3)
    h = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert Entropy()(a).item() == pytest.approx(1 - h / math.log(2))


def test_state_similarity_starts_at_the_second_layer():
    h = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert StateSimilarity()(ask(P, hidden=h)).tolist() == [0.0, 0.0]
    similarity = StateSimilarity()(ask(P, hidden=h, previous=torch.tensor([[2.0, 0, 0], [1.0, 0, 0]])))
    torch.testing.assert_close(similarity, torch.tensor([1.0, math.sqrt(0.5)]))


def test_patience_counts_the_run_that_ends_here():
    t = torch.tensor
    agree = Patience(2)(ask(P.log(), earlier=[t([0, 0]), t([0, 1]), t([0, 0])]))
    assert agree.tolist() == [1.0, 0.5]  # row 1: 0, 1, 0 and now 0: one agreement
    assert Patience(2)(ask(P.log())).tolist() == [0.0, 0.0]


def test_thresholds_above_one_look_at_nothing():
    a = ask(P.log())
    policy = ThresholdPolicy(MaxProb(), 1.5)
    assert policy.leaves(a).tolist() == [False, False] and not a.looked and not policy.exits_early


def test_thresholds_per_exit_per_row_and_decaying():
    assert ThresholdPolicy(MaxProb(), [0.9, 0.6]).leaves(ask(P.log())).tolist() == [True, False]
    assert ThresholdPolicy(MaxProb(), torch.tensor([0.8, 0.5])).leaves(ask(P.log())).tolist() == [False, True]
    decay = {"temperature": 4.0, "length": 10}
    assert ThresholdPolicy(MaxProb(), 0.7, decay).at(ask(P, step=5)) == pytest.approx(0.63 + 0.1 * math.exp(-2))
    assert ThresholdPolicy(MaxProb(), 1.5, decay).at(ask(P, step=5)) == 1.5


def test_schedules():
    assert FixedSchedule([1, 3]).leaves(ask(P, step=0)).tolist() == [True, True]
    assert FixedSchedule([1, 3]).leaves(ask(P, step=1)).tolist() == [False, False]
    assert FixedSchedule([[2], [3]]).leaves(ask(P)).tolist() == [True, False]
    with pytest.raises(ValueError, match="depths >= 1"):
        FixedSchedule([0])
    with pytest.raises(ValueError, match="depths >= 1"):
        FixedSchedule([])
    with pytest.raises(ValueError, match="has 2 rows, but 3"):
        FixedSchedule([[1], [2]]).check_rows(3)


@pytest.mark.parametrize("name", CONFIDENCES)
def test_policies_are_serialisable(name):
    import json

    policy = ThresholdPolicy(build_confidence(name), 0.8, {"temperature": 1.0, "length": 5})
    assert ThresholdPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    json.dumps(ThresholdPolicy(MaxProb(), torch.tensor([0.1, 0.2])).to_dict())
    json.dumps(FixedSchedule([[1], [2]]).to_dict())


def test_bad_thresholds():
    with pytest.raises(ValueError, match="exit_threshold"):
        ThresholdPolicy(MaxProb(), float("nan"))
    with pytest.raises(ValueError, match="exit_threshold"):
        ThresholdPolicy(MaxProb(), torch.zeros(2, 2))
