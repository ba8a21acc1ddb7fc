"""`deed.estimate`: the closed-form fit, costs of drafting counted by hand, predictions from fixed costs, advice, refusals."""

import json

import numpy as np
import pytest
import torch

import deed
from conftest import VOCAB, batch, deed_model, plain_model
from deed import DeedConfig
from deed.calibration import estimate as module
from deed.calibration.advice import advice
from deed.calibration.estimate import Estimate, Prediction, estimate
from deed.calibration.exit_statistics import ExitStatistics, record_exits
from deed.calibration.ridge import Moments, fit_ridge, with_adapters
from deed.calibration.step_costs import Costs
from deed.calibration.threshold_search import cost_of_examples, cost_of_perfect_gate, evaluate
from deed.cli.estimate import show
from deed.modeling.model import DeedMixin

COSTS = Costs(exit_check=0.5, fixed=0.25, first_use=1.0, extra_position=0.1, layer_ms=1.0)


def examples(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(3, VOCAB, (3 + i % 5,), generator=generator).tolist()} for i in range(n)]


def recorded(confidence, agrees, lengths, layers):
    return ExitStatistics(np.array(confidence, float), np.array(agrees, bool), np.array(lengths), layers)


# -- the closed-form fit ----------------------------------------------------------------------------------------------


def test_moments_solve_the_ridge_regression_and_know_its_error():
    torch.manual_seed(0)
    x, noise = torch.randn(200, 6).double() + 3, torch.randn(200, 6).double()
    true, offset = torch.randn(6, 6).double(), torch.randn(6).double()
    y = x @ true.T + offset + 0.1 * noise
    sums = Moments.empty(6)
    sums.add(x[:120], y[:120])
    rest = Moments.empty(6)
    rest.add(x[120:], y[120:])
    whole = sums + rest
    weight, bias = whole.solve(1e-9)
    found = torch.linalg.lstsq(torch.cat([x, torch.ones(200, 1).double()], 1), y).solution
    assert torch.allclose(weight, found[:6].T, atol=1e-6) and torch.allclose(bias, found[6], atol=1e-5)
    for penalty in (1e-9, 1.0):
        w, b = sums.solve(penalty)
        assert rest.error(w, b) == pytest.approx((x[120:] @ w.T + b - y[120:]).square().sum(1).mean().item(), rel=1e-9)
    centred = x - x.mean(0)
    level = 0.7 * centred.square().mean(0).mean()
    by_hand = torch.linalg.solve(centred.T @ centred / 200 + level * torch.eye(6).double(), centred.T @ y / 200).T
    assert torch.allclose(whole.solve(0.7)[0], by_hand, atol=1e-8)


def test_fitted_exits_come_nearer_to_the_last_layer_and_the_model_stays_as_it_is(kind):
    model = deed_model(kind, DeedConfig(adapter="none"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = examples(24)
    modules = fit_ridge(model, data[:16], batch_size=5, max_new_tokens=6)
    assert list(modules) == ["1", "2", "3", "4"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and len(before) == len(
        model.state_dict()
    )
    inputs = {**batch(), "decoder_input_ids": torch.full((4, 1), model.config.decoder_start_token_id)}
    own = model.exit_logits(**inputs)
    with pytest.raises(RuntimeError, match="inside"), with_adapters(model, modules):
        fitted = model.exit_logits(**inputs)
        raise RuntimeError("inside")
    last = own[-1]
    for e in range(4):
        assert (fitted[e] - last).square().mean() < (own[e] - last).square().mean()
    assert torch.equal(model.exit_logits(**inputs), own), "the exits are back, also after an error"
    with pytest.raises(ValueError, match="two examples"):
        fit_ridge(model, data[:1])


# -- costs by example ------------------------------------------------------------------------------------------------


def test_costs_by_example_add_up_to_what_evaluate_says_and_a_perfect_gate_is_a_lower_bound():
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0, 1, (3, 50))
    statistics = recorded(confidence, confidence > 0.4, [7, 13, 30], [2, 3, 5, 6])
    for thresholds in (0.6, [0.2, 2.0, 0.9], 2.0):
        each = cost_of_examples(statistics, thresholds, COSTS)
        assert each.shape == (3,)
        assert each.sum() / 50 == pytest.approx(evaluate(statistics, thresholds, COSTS)["cost"])
    free = Costs(exit_check=0.0, extra_position=0.0)
    first = np.concatenate([statistics.agrees, np.ones((1, 50), bool)]).argmax(0)
    assert cost_of_perfect_gate(statistics, free).sum() == pytest.approx(np.array([2, 3, 5, 6])[first].sum())


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clockwork(monkeypatch):
    """Steps cost `COSTS`; the decoder takes a second per token at full depth, half of that early, an encoder a second."""

    def timed(model, examples, ways, options):
        lengths = np.array([len(example["input_ids"]) for example in examples], float)
        return {
            name: np.stack([lengths * share, lengths * share + 1, lengths], 1)
            for name in ways
            for share in [1 if name == "full" else 0.5]
        }

    monkeypatch.setattr(module, "measured_costs", lambda *_: COSTS)
    monkeypatch.setattr(module, "timed", timed)


def test_of_a_plain_model_which_stays_plain(kind, clockwork):
    model = plain_model(kind)
    base, before = type(model), {k: v.clone() for k, v in model.state_dict().items()}
    lines = []
    found = deed.estimate(model, examples(24), max_new_tokens=6, batch_size=4, progress=lines.append)
    assert type(model) is base and not isinstance(model, DeedMixin)
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {k: v.tolist() for k, v in before.items()}
    length = np.mean([len(e["input_ids"]) for e in examples(24)[: module.TIMED]])
    assert len(lines) >= 5 and found.examples == 24
    assert found.answer_tokens == length and found.encoder_share == pytest.approx(1 / (1 + length))
    assert [e["depth"] for e in found.exits] == [1, 2, 3, 4]
    twin = deed_model(kind, DeedConfig(adapter="none"))
    held_out = record_exits(twin, examples(24)[1::2], confidence="max_prob", max_new_tokens=6)
    assert [e["own"] for e in found.exits] == pytest.approx(held_out.agrees.mean(1).tolist())
    assert found.tokens == held_out.tokens
    for p in found.predictions:
        assert p.decoder == pytest.approx([2.0, 2.0, 2.0])
        low, middle, high = p.answer
        assert 1 < low < middle < high < 2, "the encoder's time stays"
    assert [p.exits for p in found.predictions if p.mode == "exact"] == ["own", "fitted"]
    assert all(p.changed == 0 for p in found.predictions if p.mode == "exact")
    again = json.loads(json.dumps(found.to_dict()))
    assert again["encoder_share"] == found.encoder_share
    assert again["advice"] == found.advice and again["costs"]["exit_check"] == 0.5


def test_of_a_deed_model_which_keeps_its_exits_and_settings(clockwork):
    model = deed_model("t5_tied", DeedConfig(exit_layers=[2, 4], exit_check={"name": "screen", "rank": 4}))
    adapters = dict(model.deed_exits.items())
    check = model.deed_config.exit_check
    found = estimate(model, examples(16), max_new_tokens=5, budgets=(0.0, 1.0))
    assert [e["depth"] for e in found.exits] == [2, 4]
    assert model.deed_config.exit_check == check and dict(model.deed_exits.items()) == adapters
    free = next(p for p in found.predictions if p.exits == "own" and p.budget == 1.0)
    assert free.mean_depth <= 5 and len(free.thresholds) == 2


def test_of_exits_with_layers_of_their_own_which_are_not_fitted(clockwork):
    model = deed_model("t5_tied", DeedConfig(exit_layers=[1, 3], adapter="layer"))
    found = estimate(model, examples(16), max_new_tokens=5)
    assert [set(row) for row in found.exits] == [{"depth", "own"}] * 2
    assert set(found.perfect_gate) == {"own"} and {p.exits for p in found.predictions} == {"own"}
    show(found)  # a table without that column


def test_a_real_clock():
    model = plain_model("t5_tied", dtype=torch.float32)
    found = estimate(model, examples(8), max_new_tokens=4)
    assert all(p.decoder[0] > 0 and p.answer[0] > 0 for p in found.predictions)
    assert found.costs.layer_ms > 0 and found.encoder_ms > 0 and found.decoder_ms > 0 and found.answer_tokens > 0
    assert found.advice.endswith((".", "threshold with deed.calibrate."))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": examples(7)}, "needs 8 examples"),
        ({"budgets": ()}, "budgets must be"),
        ({"budgets": (1.5,)}, "budgets must be"),
        ({"confidence": 1.0}, "confidence must be between"),
    ],
)
def test_refusals_leave_a_plain_model_plain(change, told):
    model = plain_model("t5_tied")
    with pytest.raises(ValueError, match=told):
        estimate(model, **{"dataset": examples(8), **change})
    assert not isinstance(model, DeedMixin)


def test_a_model_with_one_exit_only():
    model = deed_model("t5_tied", DeedConfig(exit_layers=[5]))
    with pytest.raises(ValueError, match="no exit before the last"):
        estimate(model, examples(8))


def test_an_error_halfway_leaves_a_plain_model_plain(monkeypatch):
    model = plain_model("t5_tied")
    monkeypatch.setattr(module, "fit_ridge", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("halfway")))
    with pytest.raises(RuntimeError, match="halfway"):
        estimate(model, examples(8), max_new_tokens=3)
    assert not isinstance(model, DeedMixin)


def test_a_clock_that_was_disturbed(monkeypatch):
    spoilt, times = Costs(exit_check=1e6, layer_ms=1e-6), []

    def measure(*_, **__):
        times.append(1)
        return COSTS if len(times) % 2 == 0 else spoilt

    monkeypatch.setattr(module, "measure_costs", measure)
    assert module.measured_costs(None, {}) == COSTS and len(times) == 6
    monkeypatch.setattr(module, "measure_costs", lambda *_, **__: spoilt)
    with pytest.raises(ValueError, match="too busy"):
        module.measured_costs(None, {})


# -- advice -----------------------------------------------------------------------------------------------------------


def predicted(exits, mode, answer, changed=0.01):
    return Prediction(exits, mode, 0.01, [0.9], changed, 2.0, [0.0, 0.0, 0.0], answer)


@pytest.mark.parametrize(
    ("encoder", "gate", "predictions", "said"),
    [
        (10, 3.0, [predicted("own", "early", [1.3, 1.5, 1.7])], "Worth it as it is: answers 1.50 (1.30 to 1.70)"),
        (90, 3.0, [predicted("own", "exact", [1.0, 1.05, 1.1])], "Do not bother: the encoder takes 90%"),
        (10, 3.0, [predicted("own", "exact", [1.2, 1.3, 1.4])], "Use the exact mode"),
        (10, 3.0, [predicted("own", "early", [1.3, 1.5, 1.7], changed=0.2)], "Training may pay"),
        (10, 3.0, [predicted("fitted", "early", [1.2, 1.3, 1.4])], "Train the exits"),
        (10, 3.0, [predicted("fitted", "exact", [1.2, 1.3, 1.4])], "in exact mode"),
        (10, 1.1, [predicted("own", "early", [0.8, 0.9, 1.0])], "Do not bother: even a perfect gate"),
    ],
)
def test_advice(encoder, gate, predictions, said):
    found = Estimate(100, 500, [], COSTS, encoder, 100 - encoder, 5.0, {"own": gate}, predictions)
    assert said in advice(found)
