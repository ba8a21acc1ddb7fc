"""One-line changes of measures and policies that other tests let pass (found by mutation); each test fails for its change."""

import dataclasses
import math

import pytest
import torch

from deed import FixedSchedule
from deed.policies.measures import CONFIDENCES, build_confidence, needs_history
from deed.policies.policy import ThresholdPolicy
from deed.policies.query import ExitQuery


def query(logits, step=0, depth=2, exit_index=1, rows=None, **values):
    logits = torch.as_tensor(logits)
    n = len(logits)
    given = {"hidden": torch.zeros(n, 4), "previous": None, "head": lambda *_: logits, **values}
    rows = torch.arange(n) if rows is None else torch.tensor(rows)
    return ExitQuery(depth=depth, exit_index=exit_index, is_last=False, step=step, rows=rows, **given)


def logits_of(probabilities, dtype=torch.float32):
    """Two tokens, the first with these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p, 1 - p], -1).log().to(dtype)


@pytest.mark.parametrize("name", CONFIDENCES)
def test_only_patience_needs_history_and_measures_do_not_change(name):
    options = {"first": 0, "count": 2} if name == "ordered_prob" else {}
    measure = build_confidence({"name": name, **options})
    assert needs_history(measure) == (name == "patience")
    assert needs_history(ThresholdPolicy(measure, 0.5)) == (name == "patience")
    with pytest.raises(dataclasses.FrozenInstanceError):
        measure.other = 1


def test_margin_and_entropy_of_each_row():
    z = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.5, 2.0]])
    p = z.softmax(-1)
    assert torch.allclose(build_confidence("margin")(query(z)), torch.stack([p[0, 0] - p[0, 1], p[1, 2] - p[1, 1]]))
    expected = 1 + (p * p.log()).sum(-1) / math.log(3)
    assert torch.allclose(build_confidence("entropy")(query(z)), expected)


@pytest.mark.parametrize("threshold", [1.01, 1.0001, torch.tensor([1.01, 1.5])])
@pytest.mark.parametrize("decay", [None, {"temperature": 50.0, "length": 1}])
def test_above_one_never_exits_whatever_the_decay(threshold, decay):
    """Decay multiplies by 0.9: 1.01 would become 0.91, and certain rows would leave."""
    policy = ThresholdPolicy(build_confidence("max_prob"), threshold, decay)
    assert not policy.exits_early
    assert not policy.leaves(query([[100.0, 0.0], [100.0, 0.0]], step=10)).any()


def test_decay_at_one_still_decays():
    policy = ThresholdPolicy(build_confidence("max_prob"), 1.0, {"temperature": 1.0, "length": 1})
    assert policy.exits_early
    at_step = [bool(policy.leaves(query(logits_of([0.95]), step=step))) for step in (0, 1, 10)]
    assert at_step == [False, True, True]  # 1.0, then 0.9 + 0.1 / e = 0.937, then 0.900005


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_tensor_of_thresholds_leaves_at_equality_as_a_number_does(dtype):
    """The threshold is compared in the measure's dtype: 0.9 is no number of bfloat16, nor of float32."""
    measure = build_confidence("max_prob")
    for p in (0.9, 0.7, 0.1 + 0.6):
        z = logits_of([p, p, p], dtype)
        value = float(measure(query(z))[0])
        single = ThresholdPolicy(measure, value).leaves(query(z))
        several = ThresholdPolicy(measure, torch.tensor([value, value, 0.999])).begin(3).leaves(query(z))
        assert single.tolist() == [True] * 3 and several.tolist() == [True, True, False]


def test_thresholds_belong_to_rows_and_to_exits():
    measure = build_confidence("max_prob")
    z = logits_of([0.8, 0.8])
    per_request = ThresholdPolicy(measure, torch.tensor([0.9, 0.5])).begin(4)
    assert per_request.leaves(query(z, rows=[1, 2])).tolist() == [False, True]
    per_exit = ThresholdPolicy(measure, [0.9, 0.5])
    assert [per_exit.leaves(query(z, exit_index=i)).all().item() for i in (0, 1)] == [False, True]


def test_schedules_repeat_and_round_up():
    schedule = FixedSchedule([[3, 1], [2, 2]])
    leaves = [schedule.leaves(query([[0.0, 1.0]] * 2, step=s, depth=2)).tolist() for s in range(4)]
    assert leaves == [[False, True], [True, True]] * 2
    assert schedule.leaves(query([[0.0, 1.0]], rows=[1], depth=2)).tolist() == [True]


def test_entropy_where_nothing_or_one_token_is_allowed():
    """At a dead end (no token open) the count is 0: it is taken as 1, and both are certain."""
    z = torch.tensor([[3.0, 1.0, 0.0]] * 3)
    allowed = torch.tensor([[False, False, False], [False, True, False], [True, True, False]])
    found = build_confidence("entropy")(query(z, allowed=allowed))
    p = z[0, :2].softmax(-1)
    assert found[:2].tolist() == [1.0, 1.0]
    assert found[2].item() == pytest.approx(1 + float((p * p.log()).sum()) / math.log(2))


def test_schedules_join_only_what_is_asked_alike():
    one = FixedSchedule([3, 1])
    assert one.join(FixedSchedule([2]), 1, 2).to_dict()["depths"] == [[3, 1], [2], [2]]
    for other in (
        FixedSchedule([2], ask=True),
        FixedSchedule([2], measure=build_confidence("margin")),
        ThresholdPolicy(build_confidence("max_prob"), 0.5),
    ):
        with pytest.raises(ValueError, match="joined by rows under another only"):
            one.join(other, 1, 1)


@pytest.mark.parametrize("one", [0.5, [0.5, 0.6]])
@pytest.mark.parametrize("other", [0.7, [0.7, 0.8]])
def test_thresholds_per_exit_join_only_their_like(one, other):
    measure = build_confidence("max_prob")
    first, second = ThresholdPolicy(measure, one), ThresholdPolicy(measure, other)
    assert first.join(ThresholdPolicy(measure, one), 2, 1) is first
    if isinstance(one, list) or isinstance(other, list):
        with pytest.raises(ValueError, match="per exit has to be the same"):
            first.join(second, 2, 1)
    else:
        assert first.join(second, 2, 1).threshold.tolist() == [0.5, 0.5, 0.7]


@pytest.mark.parametrize("name", ["margin", None])
def test_thresholds_join_only_thresholds_on_the_same_measure(name):
    other = FixedSchedule([1]) if name is None else ThresholdPolicy(build_confidence(name), 0.5)
    with pytest.raises(ValueError, match="need the same confidence measure and decay"):
        ThresholdPolicy(build_confidence("max_prob"), 0.5).join(other, 1, 1)
