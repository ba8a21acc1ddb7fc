"""Depths that schedules force: drawn with the mean asked for, or recorded from real answers."""

import math
from itertools import pairwise

import pytest

from deed.bench.schedules import geometric_schedule, recorded_answers, replayed, truncated_geometric


@pytest.mark.parametrize(("mean", "layers"), [(2, 12), (3, 12), (4, 12), (6, 12), (1, 6), (1.5, 6), (6.5, 12)])
def test_truncated_geometric_has_the_mean_asked_for(mean, layers):
    p = truncated_geometric(mean, layers)
    assert len(p) == layers and math.isclose(sum(p), 1.0)
    assert math.isclose(sum(d * w for d, w in enumerate(p, 1)), mean, rel_tol=1e-9)
    if 1 < mean < (layers + 1) / 2:  # one ratio all the way down
        assert all(math.isclose(b / a, p[1] / p[0], rel_tol=1e-6) for a, b in pairwise(p))


def test_a_mean_that_cannot_be_is_refused():
    for mean in (0.5, 7.0):
        with pytest.raises(ValueError, match=r"mean depth must lie in 1\.\.6\.5 for 12 layers"):
            truncated_geometric(mean, 12)


def test_schedules_are_drawn_from_the_seed():
    table = geometric_schedule(3, 12, 4, 2000)
    assert table == geometric_schedule(3, 12, 4, 2000) != geometric_schedule(3, 12, 4, 2000, seed=1)
    flat = [d for row in table for d in row]
    assert min(flat) == 1 and max(flat) == 12 and abs(sum(flat) / len(flat) - 3) < 0.15
    assert table[0] != table[1]


def test_recorded_depths_follow_each_other_row_by_row():
    answers = [[1, 2], [3], [4, 4, 8]]
    assert replayed(answers, 8, 8, 1, 7) == [[1, 2, 3, 4, 4, 8, 1]]
    assert replayed(answers, 8, 8, 2, 4) == [[1, 2, 4, 4], [3, 1, 2, 4]]
    assert replayed(answers, 8, 12, 1, 6) == [[2, 3, 5, 6, 6, 12]], "stretched, rounded up"


def test_real_answers_of_the_shipped_model_leave_early():
    answers, layers = recorded_answers("g2p", 8)
    assert layers == 8 and len(answers) == 8
    depths = [d for answer in answers for d in answer]
    assert min(depths) >= 1 and max(depths) <= 8 and 1 < sum(depths) / len(depths) < 5
