"""Measures and policies on their own (in decoding: test_decode.py)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deed import (
    DeedConfig,
    DeedConfigError,
    Entropy,
    ExitQuery,
    FixedSchedule,
    Margin,
    MaxProb,
    OrderedProb,
    Patience,
    StateSimilarity,
    ThresholdPolicy,
)
from deed.policies.measures import CONFIDENCES, build_confidence, needs_history
from deed.policies.policy import decide, join, keep
from deed.policies.query import ExitDecision


def ask(logits, allowed=None, hidden=None, previous=None, previous_tokens=(), **fields):
    logits = torch.as_tensor(logits, dtype=torch.float64)
    rows = torch.arange(len(logits))
    hidden = torch.zeros(len(logits), 3) if hidden is None else hidden
    values = {"depth": 2, "exit_index": 1, "is_last": False, "step": 0, "rows": rows, **fields}
    return ExitQuery(
        **values,
        hidden=hidden,
        previous=previous,
        head=lambda: logits,
        allowed=allowed,
        previous_tokens=list(previous_tokens),
    )


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
    agree = Patience(2)(ask(P.log(), previous_tokens=[t([0, 0]), t([0, 1]), t([0, 0])]))
    assert agree.tolist() == [1.0, 0.5]  # row 1: 0, 1, 0 and now 0: one agreement
    assert Patience(2)(ask(P.log())).tolist() == [0.0, 0.0]


def test_thresholds_above_one_look_at_nothing():
    a = ask(P.log())
    policy = ThresholdPolicy(MaxProb(), 1.5)
    assert policy.leaves(a).tolist() == [False, False] and not a.computed and not policy.exits_early


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


def test_neighbors_on_a_scale_count_together():
    p = torch.tensor([[0.1, 0.3, 0.4, 0.2], [0.6, 0.1, 0.1, 0.2], [0.0, 0.1, 0.3, 0.6]], dtype=torch.float64)
    scale = ask(p.log())
    near = OrderedProb(first=1, count=3, within=1)(scale)  # tokens 1, 2, 3; token 0 is none of them
    torch.testing.assert_close(near, torch.tensor([0.9, 0.6, 0.9], dtype=torch.float64))
    torch.testing.assert_close(OrderedProb(1, 3, within=0)(scale), p.amax(-1))
    torch.testing.assert_close(OrderedProb(1, 3, within=9)(scale), torch.tensor([0.9, 0.6, 1.0], dtype=torch.float64))
    # A neighbour that is no part of the scale, or not allowed, does not count.
    torch.testing.assert_close(OrderedProb(2, 2, 1)(scale)[0], torch.tensor(0.6, dtype=torch.float64))
    allowed = torch.tensor([[True, False, True, True]])
    torch.testing.assert_close(OrderedProb(1, 3, 1)(ask(p[:1].log(), allowed=allowed))[0].item(), 0.6 / 0.7)


def test_a_scale_has_to_fit():
    for bad in ({"first": -1, "count": 3}, {"first": 0, "count": 0}, {"first": 0, "count": 2, "within": 0.5}):
        with pytest.raises(DeedConfigError, match=r"ordered_prob: (first|count|within) must be an integer"):
            OrderedProb(**bad)
    with pytest.raises(DeedConfigError, match=r"'ordered_prob' needs the options \['first', 'count'\]"):
        build_confidence("ordered_prob")
    with pytest.raises(ValueError, match="tokens 1 to 3 are beyond the vocabulary of 3"):
        OrderedProb(1, 3)(ask(P.log()))


def spec_of(name):
    return {"name": name, "first": 1, "count": 3} if name == "ordered_prob" else name


@pytest.mark.parametrize("name", CONFIDENCES)
def test_policies_are_serializable(name):
    import json

    policy = ThresholdPolicy(build_confidence(spec_of(name)), 0.8, {"temperature": 1.0, "length": 5})
    assert ThresholdPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    json.dumps(ThresholdPolicy(MaxProb(), torch.tensor([0.1, 0.2])).to_dict())
    json.dumps(FixedSchedule([[1], [2]]).to_dict())


def test_bad_thresholds():
    with pytest.raises(ValueError, match="exit_threshold"):
        ThresholdPolicy(MaxProb(), float("nan"))
    with pytest.raises(ValueError, match="exit_threshold"):
        ThresholdPolicy(MaxProb(), torch.zeros(2, 2))


def counting(rows=4):
    """An ask whose head notes how many rows it was run on."""
    table, runs = torch.randn(rows, 6, dtype=torch.float64), []
    hidden = torch.arange(rows)[:, None].double()

    def head(h=hidden):
        runs.append(len(h))
        return table[h[:, 0].long()]

    rows = torch.arange(rows) + 10
    previous_tokens, allowed = [rows * 2], table > -1
    return ExitQuery(2, 1, False, 0, rows, hidden, hidden + 1, head, allowed, previous_tokens), table, runs


def test_an_ask_of_some_rows():
    whole, table, runs = counting()
    some = whole.only(torch.tensor([1, 3]))
    assert some.rows.tolist() == [11, 13] and some.previous_tokens[0].tolist() == [22, 26] and runs == []
    assert torch.equal(some.logits, table[[1, 3]]) and runs == [2] and not whole.computed
    assert torch.equal(some.masked_logits, whole.masked_logits[[1, 3]]) and runs == [2, 4]
    assert torch.equal(some.previous, whole.previous[[1, 3]])
    assert torch.equal(some.only(torch.tensor([1])).logits, table[[3]])


def test_a_decision_gives_the_logits_of_those_who_leave():
    table = torch.randn(4, 6)
    leave = torch.tensor([False, True, False, True])
    assert ExitDecision(leave).logits_of([1, 3]) is None and ExitDecision(leave).computed_rows == 0
    assert torch.equal(ExitDecision(leave, None, table).logits_of([1, 3]), table[[1, 3]])
    for rows in ([1, 3], [0, 1, 3], [0, 1, 2, 3]):
        found = ExitDecision(leave, torch.tensor(rows), table[rows])
        assert torch.equal(found.logits_of([1, 3]), table[[1, 3]]) and found.computed_rows == len(rows)


def test_a_policy_that_only_says_who_leaves_is_understood():
    class Own:
        exits_early, needs_history = True, False

        def leaves(self, query):
            return query.logits.amax(-1) > 0.5 if query.depth == 2 else query.rows > 11

    query, table, runs = counting()
    found = decide(Own(), query)
    assert torch.equal(found.leave, table.amax(-1) > 0.5) and torch.equal(found.logits, table) and runs == [4]
    unseen = decide(Own(), replace(counting()[0], depth=3))
    assert unseen.leave.tolist() == [False, False, True, True] and unseen.logits is None


def test_policies_begin_anew_for_their_rows():
    policy = ThresholdPolicy(MaxProb(), torch.tensor([0.1, 0.9]))
    assert policy.begin(6).threshold.tolist() == pytest.approx([0.1] * 3 + [0.9] * 3)
    assert policy.threshold.tolist() == pytest.approx([0.1, 0.9])
    with pytest.raises(ValueError, match="exit_threshold has 2 values, but 3 rows"):
        policy.begin(3)
    assert ThresholdPolicy(MaxProb(), 0.5).begin(3).threshold == 0.5
    assert FixedSchedule([[1], [2]]).begin(2) == FixedSchedule([[1], [2]])
    with pytest.raises(ValueError, match="has 2 rows, but 3"):
        FixedSchedule([[1], [2]]).begin(3)


def test_a_schedule_that_asks_computes_its_measure():
    query, _, runs = counting()
    assert FixedSchedule([3]).leaves(query).tolist() == [False] * 4 and runs == []
    seen = []

    class Own:
        needs_history = False

        def __call__(self, query):
            seen.append(query)

    FixedSchedule([3], ask=True, measure=Own()).leaves(query)
    assert seen[0] is query
    FixedSchedule([3], ask=True).leaves(query)
    assert runs == [4]


def test_the_former_names_are_still_read():
    import deed

    assert deed.Ask is ExitQuery

    class Old:
        remembers = True

        def __call__(self, ask):
            return ask.earlier[0]

    query, _, _ = counting()
    assert needs_history(Old()) and needs_history(ThresholdPolicy(Old(), 0.5)) and not needs_history(object())
    assert torch.equal(Old()(query), query.previous_tokens[0])


DECAY = {"temperature": 4.0, "length": 10}


@pytest.mark.parametrize("threshold", [1.0001, 1.5, torch.tensor([1.0001, 1.5])], ids=["just", "above", "tensor"])
@pytest.mark.parametrize("decay", [None, DECAY])
def test_above_one_never_exits_with_or_without_decay(threshold, decay):
    certain = [[1e4, 0.0, 0.0], [1e4, 0.0, 0.0]]
    for step in (0, 5, 1000):
        query = ask(certain, step=step)
        policy = ThresholdPolicy(MaxProb(), threshold, decay)
        assert MaxProb()(query).tolist() == [1.0, 1.0] and policy.leaves(query).tolist() == [False, False]
    steps = ask(certain, steps=[0, 1000])
    assert ThresholdPolicy(MaxProb(), threshold, decay).leaves(steps).tolist() == [False, False]


def test_decay_goes_by_each_rows_own_step():
    policy = ThresholdPolicy(MaxProb(), 0.7, DECAY)
    alone = [policy.at(ask(P, step=step)) for step in (0, 5)]
    assert policy.at(ask(P, steps=[0, 5])).tolist() == pytest.approx(alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_a_tensor_threshold_acts_as_the_number_does(dtype, given):
    """Equal to the confidence it lets a row leave, whatever the two dtypes are."""

    class Fixed:
        needs_history = False

        def __call__(self, query):
            return torch.tensor([0.1, 0.9], dtype=dtype)

    numbers = torch.tensor([0.1, 0.9], dtype=given)
    for value in (numbers, numbers + 0.01, numbers - 0.01):
        as_numbers = [bool(torch.tensor(c, dtype=dtype) >= float(v)) for c, v in zip([0.1, 0.9], value, strict=True)]
        got = ThresholdPolicy(Fixed(), value).leaves(ask(P.log())).tolist()
        assert got == as_numbers
    assert ThresholdPolicy(Fixed(), torch.tensor([0.1, 0.9], dtype=dtype)).leaves(ask(P.log())).tolist() == [
        True,
        True,
    ]


@pytest.mark.parametrize("bad", ["0.9", None, -0.1, [0.5, -1], torch.tensor([0.5, -1.0]), 10**400, [[0.5]], {}])
def test_thresholds_that_are_none(bad):
    with pytest.raises(ValueError, match="exit_threshold must be a number of at least 0"):
        ThresholdPolicy(MaxProb(), bad)


def test_policies_follow_their_rows():
    one, two = ThresholdPolicy(MaxProb(), 0.5), ThresholdPolicy(MaxProb(), torch.tensor([0.2, 0.9]))
    assert join(one, one, 2, 3) is one
    both = join(one, two, 1, 2)
    assert both.threshold.tolist() == pytest.approx([0.5, 0.2, 0.9])
    assert keep(both, [2, 0]).threshold.tolist() == pytest.approx([0.9, 0.5])
    fixed = join(FixedSchedule([3]), FixedSchedule([[1, 2], [4]]), 2, 2)
    assert fixed == FixedSchedule([[3], [3], [1, 2], [4]]) and keep(fixed, [3]) == FixedSchedule([[4]])
    for other in (ThresholdPolicy(Margin(), 0.5), FixedSchedule([1]), ThresholdPolicy(MaxProb(), [0.5, 0.6])):
        with pytest.raises(ValueError, match=r"rows of one batch need the same|has to be the same"):
            join(one, other, 1, 1)


def test_a_schedule_deeper_than_the_decoder():
    FixedSchedule([[1], [4]]).check_layers(4)
    with pytest.raises(ValueError, match="asks for depth 9, but the decoder has 4 layers"):
        FixedSchedule([1, 9]).check_layers(4)


def test_patience_is_a_number_not_a_flag():
    with pytest.raises(DeedConfigError, match="patience must be an integer >= 1, got True"):
        DeedConfig(confidence={"name": "patience", "patience": True})


@pytest.mark.parametrize(
    "depths", [[2.7], [[1, 2.0]], ["2"], [True], torch.tensor([1.5]), np.array([2.0]), [None], torch.tensor([True])]
)
def test_a_schedule_of_anything_but_whole_numbers_is_refused(depths):
    with pytest.raises(ValueError, match="FixedSchedule needs whole numbers as depths"):
        FixedSchedule(depths)


@pytest.mark.parametrize(
    "depths",
    [[2, 3], (2, 3), np.array([2, 3]), [np.int64(2), np.int32(3)], torch.tensor([2, 3]), [torch.tensor(2), 3]],
)
def test_whole_numbers_of_any_kind_make_a_schedule(depths):
    assert FixedSchedule(depths).to_dict()["depths"] == [2, 3]
    if not isinstance(depths, (list, tuple)):
        assert FixedSchedule(depths[None]).to_dict()["depths"] == [2, 3]
