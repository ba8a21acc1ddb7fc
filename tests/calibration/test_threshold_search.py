"""Choosing exits: against brute force, where the answer is known, and against what `generate()` then does."""

import itertools

import numpy as np
import pytest
import torch

from conftest import VOCAB, deed_model
from deed.calibration.exit_statistics import ExitStatistics, record_exits
from deed.calibration.step_costs import Costs
from deed.calibration.threshold_search import GRID_SIZE, candidates, evaluate, search_thresholds
from deed.constants import NEVER_EXIT

BUDGETS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def made_up(examples, exits, seed=0, mean=8):
    """Statistics of easy and hard tokens; a deeper exit is surer and errs less."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2 * mean, examples)
    hard = rng.beta(0.7, 2, lengths.sum())
    confidence, agrees = [], []
    for depth in exits[:-1]:
        sure = 1 - hard * (1 - depth / exits[-1]) ** 0.7 * 1.2 + rng.normal(0, 0.05, len(hard))
        confidence.append(np.clip(sure, 0.02, 0.9999).astype(np.float32))
        agrees.append(rng.random(len(hard)) < confidence[-1] ** 0.5)
    return ExitStatistics(np.array(confidence), np.array(agrees), lengths, list(exits))


def small(confidence, agrees, lengths, exits):
    return ExitStatistics(
        np.array(confidence, dtype=np.float32), np.array(agrees, dtype=bool), np.array(lengths), exits
    )


def cost_step_by_step(statistics, thresholds, costs):
    """By walking through every answer, stair by stair."""
    total = 0.0
    for start, length in zip(statistics.starts, statistics.lengths, strict=True):
        filled = [0] * statistics.exit_layers[-1]
        for step in range(length):
            depth = statistics.exit_layers[-1]
            for e, threshold in enumerate(thresholds):
                if threshold <= 1:
                    total += costs.exit_check + costs.exit_layer
                    if statistics.confidence[e, start + step] >= threshold:
                        depth = statistics.exit_layers[e]
                        break
            else:
                # The last exit gives its logits without being asked for confidence.
                total += costs.exit_check if costs.last_check is None else costs.last_check
            for layer in range(depth):
                total += 1 + costs.extra_position * (step - filled[layer]) + costs.first_use * (filled[layer] == 0)
                filled[layer] = step + 1
    return costs.fixed + total / statistics.tokens


@pytest.mark.parametrize(
    "costs",
    [
        Costs(exit_check=0.3),
        Costs(exit_check=2.7, fixed=1.5, first_use=2.0),
        Costs(exit_check=0.0, extra_position=0.0),
        Costs(exit_check=0.4, last_check=6.0, exit_layer=1.0),
    ],
)
def test_cost_is_that_of_walking_through_the_answers(costs):
    statistics = made_up(30, [1, 2, 4, 6])
    for thresholds in ([0.9] * 3, [0.5, NEVER_EXIT, 0.8], [NEVER_EXIT] * 3, [0.0, 0.0, 0.0], [0.95, 0.6, 0.3]):
        found = evaluate(statistics, thresholds, costs)
        assert found["cost"] == pytest.approx(cost_step_by_step(statistics, thresholds, costs))
        assert found["full_depth_cost"] == pytest.approx(cost_step_by_step(statistics, [NEVER_EXIT] * 3, costs))
    assert evaluate(statistics, 0.9, costs) == evaluate(statistics, [0.9] * 3, costs)
    with pytest.raises(ValueError, match="got 2 thresholds, but there are 3 exits"):
        evaluate(statistics, [0.5, 0.5], costs)


@pytest.mark.parametrize(
    "costs", [Costs(exit_check=0.3), Costs(exit_check=1.5, first_use=2.0), Costs(0.3, last_check=3.0)]
)
def test_close_to_brute_force(costs):
    """Never over a budget; the least cost in most cases, and never far from it."""
    ratios = []
    for seed, (exits, examples) in itertools.product(range(5), (([1, 2, 4, 6], 14), ([1, 3, 6], 25))):
        statistics = made_up(examples, exits, seed, mean=5)
        grids = [candidates(c, a) for c, a in zip(statistics.confidence, statistics.agrees, strict=True)]
        every = [evaluate(statistics, x, costs) for x in itertools.product(*[(*g, NEVER_EXIT) for g in grids])]
        for choice in search_thresholds(statistics, costs, BUDGETS, hold_out=False):
            least = min(found["cost"] for found in every if 1 - found["agreement"] <= choice.budget + 1e-9)
            ratios.append(choice.tuning["cost"] / least)
            assert 1 - choice.tuning["agreement"] <= choice.budget + 1e-9
    assert min(ratios) > 1 - 1e-9 and max(ratios) < 1.06
    assert np.mean(np.array(ratios) < 1.001) > 0.9


def test_a_larger_budget_never_costs_more_and_none_is_overdrawn():
    for seed, ask in itertools.product(range(3), (0.0, 0.3, 2.7)):
        statistics = made_up(200, [1, 2, 3, 5, 8], seed)
        chosen = search_thresholds(statistics, Costs(exit_check=ask, first_use=1.0), BUDGETS)
        costs = [choice.tuning["cost"] for choice in chosen]
        assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]
        assert all(1 - c.tuning["agreement"] <= c.budget + 1e-9 for c in chosen)
        assert chosen[0].tuning["agreement"] == 1.0
        for choice in chosen:  # no single threshold of the grid is better
            for threshold in (0.5, 0.8, 0.9, 0.95, 0.99, NEVER_EXIT):
                single = evaluate(statistics.halves()[0], threshold, Costs(exit_check=ask, first_use=1.0))
                if 1 - single["agreement"] <= choice.budget:
                    assert choice.tuning["cost"] <= single["cost"] * 1.001


def test_an_exit_that_is_never_right_is_not_asked():
    statistics = made_up(100, [1, 2, 3, 4, 6])
    statistics.agrees[1] = False
    statistics.confidence[1] = 0.999
    for choice in search_thresholds(statistics, Costs(exit_check=0.0), [0.0, 0.01, 0.05]):
        assert choice.thresholds[1] == NEVER_EXIT and min(choice.thresholds) <= 1


def test_asking_for_nothing_keeps_every_exit_that_helps_and_asking_dearly_none():
    """Each exit is right and sure about tokens of its own, wrong and unsure about the others."""
    confidence, agrees = np.full((3, 40), 0.2), np.zeros((3, 40))
    for e in range(3):
        confidence[e, e * 10 : e * 10 + 10], agrees[e, e * 10 : e * 10 + 10] = 0.9, 1
    statistics = small(confidence, agrees, [40], [1, 2, 3, 4])
    free = search_thresholds(statistics, Costs(exit_check=0.0), [0.0], hold_out=False)[0]
    assert all(0.2 < t <= 0.9 for t in free.thresholds) and free.tuning["agreement"] == 1.0
    assert free.tuning["mean_depth"] == 2.5
    dear = search_thresholds(statistics, Costs(exit_check=50.0), [0.0], hold_out=False)[0]
    assert dear.thresholds == [NEVER_EXIT] * 3
    assert dear.tuning["cost"] == dear.tuning["full_depth_cost"] == 54.0


def test_an_exit_whose_asks_cost_more_than_it_saves_is_dropped():
    """The second exit says what the first says, and one more token in ten: worth a layer, not worth four asks at 0.3."""
    first = np.array([0.9] * 5 + [0.1] * 5)
    second = np.array([0.9] * 6 + [0.1] * 4)
    statistics = small([first, second], [first > 0.5, second > 0.5], [1] * 10, [1, 2, 3])
    found = {ask: search_thresholds(statistics, Costs(exit_check=ask), [0.0], hold_out=False)[0] for ask in (0.1, 0.3)}
    # Five tokens pay for asking the second exit; one of them saves a layer and the last ask: 4 asks against a layer.
    assert found[0.1].thresholds[1] <= 1 and found[0.3].thresholds[1] == NEVER_EXIT
    assert all(choice.thresholds[0] <= 1 for choice in found.values())


def test_thresholds_lie_between_wrong_tokens_and_surer_ones():
    grid = candidates(np.array([0.1, 0.3, 0.5, 0.7, 0.9], dtype=np.float32), np.array([1, 0, 1, 0, 1], dtype=bool))
    assert grid.tolist() == pytest.approx([0.1, 0.4, 0.8])
    surest_is_wrong = candidates(np.array([0.5, 1.0, 1.0]), np.array([True, True, False]))
    assert surest_is_wrong.tolist() == [0.5]
    near = np.nextafter(np.float32(0.5), np.float32(1))  # nothing lies between two neighbours
    assert candidates(np.array([0.5, near], dtype=np.float32), np.array([False, True])).tolist() == [0.5, near]
    many = made_up(2000, [1, 6])
    assert len(candidates(many.confidence[0], many.agrees[0])) <= GRID_SIZE


def test_the_other_half_is_reported_and_nothing_is_random():
    statistics = made_up(300, [1, 2, 4, 6])
    first, again = (search_thresholds(statistics, Costs(exit_check=0.5), [0.02])[0] for _ in range(2))
    assert first == again
    tuning, rest = statistics.halves()
    assert first.tuning == evaluate(tuning, first.thresholds, Costs(exit_check=0.5))
    assert first.held_out == evaluate(rest, first.thresholds, Costs(exit_check=0.5))
    whole = search_thresholds(statistics, Costs(exit_check=0.5), [0.02], hold_out=False)[0]
    assert whole.held_out is None and whole.tuning == evaluate(statistics, whole.thresholds, Costs(exit_check=0.5))


def test_refusals():
    statistics = made_up(4, [1, 2])
    with pytest.raises(ValueError, match="budgets must be"):
        search_thresholds(statistics, Costs(exit_check=1.0), [-0.1])
    with pytest.raises(ValueError, match="takes two or more"):
        search_thresholds(made_up(1, [1, 2]), Costs(exit_check=1.0), [0.1])
    with pytest.raises(ValueError, match="nothing to choose"):
        search_thresholds(small(np.zeros((0, 3)), np.zeros((0, 3)), [1, 2], [5]), Costs(exit_check=1.0), [0.1])


def test_generate_does_what_was_foretold(kind):
    """With no token allowed to differ, `generate()` on the same examples gives full depth's tokens at the foretold depths,
    and at `extra_position=1` the foretold cost is the number of positions that layers ran on, plus the exits asked."""
    model = deed_model(kind)
    with torch.no_grad():  # exits that agree often: upper layers change little, adapters nothing
        for name, weight in model.named_parameters():
            if any(f".{part}." in name for part in ("block.1", "block.2", "block.3", "block.4")) and weight.ndim > 1:
                weight.mul_(0.5 if "decoder" in name else 1.0)
        for weight in model.deed_exits.parameters():
            weight.zero_()
    generator = torch.Generator().manual_seed(1)
    data = [{"input_ids": torch.randint(3, VOCAB, (5,), generator=generator).tolist()} for _ in range(10)]
    statistics = record_exits(model, data, max_new_tokens=8)
    choice = search_thresholds(statistics, Costs(exit_check=0.2, extra_position=1.0), [0.0], hold_out=False)[0]
    assert choice.tuning["mean_depth"] < 5, "the case is vacuous: nothing leaves early"
    cells = asked = depths = tokens = 0
    for example in data:
        ids = torch.tensor([example["input_ids"]])
        full = model.generate(ids, max_new_tokens=8, exit_threshold=NEVER_EXIT)
        out = model.generate(ids, max_new_tokens=8, exit_threshold=choice.thresholds, return_dict_in_generate=True)
        assert torch.equal(full, out.sequences)
        work = out.past_key_values.stats()
        cells, asked = cells + work["computed_cells"], asked + work["asked_rows"]
        depths, tokens = depths + int(out.exit_layers.sum()), tokens + int((out.exit_layers > 0).sum())
    assert tokens == statistics.tokens and depths / tokens == pytest.approx(choice.tuning["mean_depth"])
    foretold = evaluate(statistics, choice.thresholds, Costs(exit_check=0.0, extra_position=1.0))
    assert foretold["cost"] * tokens == pytest.approx(cells)
    assert foretold["exit_checks"] * tokens == pytest.approx(asked)


def test_agreement_is_the_share_of_tokens_that_are_right_where_they_leave():
    """By hand: two tokens leave early, one of them wrong; two do not reach the threshold and count as right."""
    statistics = small([[0.9, 0.8, 0.1, 0.2]], [[True, False, False, False]], [4], [1, 3])
    found = evaluate(statistics, 0.8, Costs(exit_check=0.0))
    assert found["agreement"] == 0.75 and found["mean_depth"] == 2.0 and found["exit_checks"] == 1.5
