"""Whisper's timestamps come from the last layer, whatever the exits say."""

import pytest
import torch

from deed.policies.measures import MaxProb
from deed.policies.policy import ThresholdPolicy, decide
from deed.policies.query import ExitQuery
from deed.policies.timestamps import DeepTimestamps

FIRST = 6  # of ten tokens


def query(logits):
    hidden = torch.zeros(len(logits), 4)
    head = lambda at=None: logits if at is None else logits[at]  # noqa: E731
    rows = torch.arange(len(logits))
    return ExitQuery(1, 0, False, 0, rows, hidden, None, head, features=lambda at=None: None)


class Everyone:
    """Leaves without looking at logits."""

    needs_history = False
    exits_early = True

    def leaves(self, query):
        return torch.ones(len(query.hidden), dtype=torch.bool)


LOGITS = torch.full((4, 10), -20.0)
LOGITS[0, 2] = 5.0  # text
LOGITS[1, 8] = 5.0  # a timestamp
LOGITS[2, 3], LOGITS[2, 6:] = 1.0, 0.5  # text is the best token, but timestamps together are more likely
LOGITS[3, :2] = 1.0  # unsure


@pytest.mark.parametrize("policy", [ThresholdPolicy(MaxProb(), 0.0), Everyone()])
def test_rows_stay_where_a_timestamp_comes(policy):
    decision = decide(DeepTimestamps(policy, FIRST), query(LOGITS))
    assert decision.leave.tolist() == [True, False, False, True]
    torch.testing.assert_close(decision.logits_of([0, 3]), LOGITS[[0, 3]])


def test_nobody_leaves_who_would_not():
    policy = DeepTimestamps(ThresholdPolicy(MaxProb(), 0.9), FIRST)
    assert policy.leaves(query(LOGITS)).tolist() == [True, False, False, False]
    assert not DeepTimestamps(ThresholdPolicy(MaxProb(), 2.0), FIRST).exits_early


def test_rows_move_join_and_leave():
    one = DeepTimestamps(ThresholdPolicy(MaxProb(), torch.tensor([0.0, 2.0])), FIRST).begin(4)
    assert one.leaves(query(LOGITS)).tolist() == [True, False, False, False]
    assert one.keep([3, 0]).policy.threshold.tolist() == [2.0, 0.0]
    both = one.keep([0]).join(DeepTimestamps(ThresholdPolicy(MaxProb(), 0.5), FIRST), 1, 1)
    assert both.policy.threshold.tolist() == [0.0, 0.5]
    for other in (ThresholdPolicy(MaxProb(), 0.5), DeepTimestamps(ThresholdPolicy(MaxProb(), 0.5), FIRST + 1)):
        with pytest.raises(ValueError, match="cannot share a policy"):
            one.join(other, 2, 1)
