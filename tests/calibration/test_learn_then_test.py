"""Calibration: p-values against scipy, the guarantee by simulation, refusals, and a real run on a tiny model."""

import numpy as np
import pytest
import torch
from scipy import stats

import deed
from conftest import batch, deed_model
from deed import CalibrationError
from deed.calibration import learn_then_test
from deed.calibration.learn_then_test import GRID, calibrate
from deed.calibration.risk import (
    binomial_cdf,
    examples_needed,
    hoeffding_bentkus,
    p_value,
    risk_bound,
    smallest_risk,
)
from deed.modeling import promise


def test_binomial_cdf_against_scipy():
    for n, p in ((10, 0.3), (299, 0.01), (4000, 0.01), (50, 0.5)):
        for k in (0, 1, 3, n // 20, n // 2, n):
            assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-9)


def test_p_values():
    assert p_value([0.0] * 99 + [1.0], 0.05) == pytest.approx(stats.binom.cdf(1, 100, 0.05))
    graded = [0.0] * 90 + [0.1] * 10
    hb = hoeffding_bentkus(0.01, 100, 0.05)
    assert p_value(graded, 0.05) == pytest.approx(hb)
    h = 0.01 * np.log(0.01 / 0.05) + 0.99 * np.log(0.99 / 0.95)
    assert hb == pytest.approx(min(np.exp(-100 * h), np.e * stats.binom.cdf(1, 100, 0.05)))
    assert hoeffding_bentkus(0.05, 100, 0.05) == 1.0
    # Where Bentkus is the smaller: losses that add up to 80 count as 80, whatever rounding has left behind the point.
    for noise in (0.0, 1e-15, -1e-15):
        assert hoeffding_bentkus(0.08 + noise, 1000, 0.1) == pytest.approx(np.e * stats.binom.cdf(80, 1000, 0.1))


def test_p_values_are_valid():
    """Under the null (expected loss just above the risk) a p-value below delta must come up in at most delta of runs."""
    rng, risk, delta, runs, n = np.random.default_rng(0), 0.05, 0.1, 3000, 150
    binary = np.mean([p_value((rng.random(n) < risk).astype(float).tolist(), risk) <= delta for _ in range(runs)])
    graded = np.mean(
        [p_value(np.where(rng.random(n) < 2 * risk, 0.5, 0.0).tolist(), risk) <= delta for _ in range(runs)]
    )
    assert binary <= delta + 0.015 and graded <= delta + 0.015


def test_examples_needed():
    assert examples_needed(0.01, 0.95) == 299
    assert [examples_needed(0.5, c) for c in (0.5, 0.75, 0.8)] == [1, 2, 3], "exactly at the bound is enough"
    for risk, confidence in ((0.05, 0.95), (0.02, 0.9), (0.1, 0.99)):
        n = examples_needed(risk, confidence)
        assert p_value([0.0] * n, risk) <= 1 - confidence < p_value([0.0] * (n - 1), risk)


def test_what_so_many_examples_can_certify():
    for n in (20, 127, 1497):
        risk = smallest_risk(n, 0.95)
        assert examples_needed(risk, 0.95) == n
        assert risk_bound([0.0] * n, 0.95) == pytest.approx(risk, abs=1e-9)
    graded = [0.0] * 118 + [0.2] * 9
    bound = risk_bound(graded, 0.95)
    assert p_value(graded, bound) <= 0.05 < p_value(graded, bound - 1e-6)
    assert risk_bound([1.0] * 10, 0.95) == 1.0


def examples(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (n,), generator=generator).tolist()
    return [{"input_ids": torch.randint(3, 40, (k,), generator=generator).tolist()} for k in lengths]


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_too_few_examples_are_refused(kind):
    model = deed_model(kind)
    with pytest.raises(
        CalibrationError, match=r"needs at least 299 examples .* got 20; .* \(at best a risk of 0\.1392\)"
    ):
        deed.calibrate(model, examples(20), risk=0.01)
    assert model.deed_config.threshold == 0.9 and model.deed_config.calibration is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 0}, "risk must lie"),
        ({"risk": 1.5}, "risk must lie"),
        ({"confidence": 1.0}, "confidence must lie"),
        ({"thresholds": []}, "thresholds"),
        ({"thresholds": [0.5, 1.1]}, "thresholds"),
        ({"score": lambda tokens, example: 3.0}, r"score must return a value in \[0, 1\]"),
        ({"score": lambda tokens, example: float("nan")}, r"score must return a value in \[0, 1\]"),
        ({"batch_size": -1}, "batch_size must be an integer of at least 1, got -1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1"),
        ({"exit_threshold": 0.5}, "exit_threshold is what calibrate chooses"),
        ({"exit_policy": deed.FixedSchedule([1])}, "exit_policy is what calibrate chooses"),
        ({"risk": float("nan")}, "risk must lie"),
    ],
)
def test_bad_arguments(options, message):
    model = deed_model("t5_tied")
    before = model.deed_config.to_dict()
    with pytest.raises(ValueError, match=message):
        calibrate(model, examples(60), **{"risk": 0.3, "max_new_tokens": 2, **options})
    assert model.deed_config.to_dict() == before, "nothing is stored that was not found"


def agreement_model(strength):
    """A model whose exits mostly say what the last one says: the adapters' targets are not trained, so the layers above
    the first are scaled down until they change little."""
    model = deed_model("t5_tied", dtype=torch.float32)
    with torch.no_grad():
        for block in model.decoder.block[1:]:
            for layer in (
                block.layer[0].SelfAttention.o,
                block.layer[1].EncDecAttention.o,
                block.layer[2].DenseReluDense.wo,
            ):
                layer.weight.mul_(strength)
        for p in model.deed_exits.parameters():
            p.zero_()
    return model


def test_chooses_the_loosest_threshold_before_the_first_failure():
    model = agreement_model(0.05)
    lines = []
    report = deed.calibrate(
        model, examples(120), risk=0.1, confidence=0.9, max_new_tokens=4, progress=lines.append, batch_size=40
    )
    tested = report["tested"]
    assert [row["threshold"] for row in tested] == list(GRID[: len(tested)])
    accepted = [row for row in tested if row["accepted"]]
    assert accepted and all(row["p_value"] <= 0.1 for row in accepted)
    assert report["threshold"] == accepted[-1]["threshold"] == model.deed_config.threshold
    assert tested[: len(accepted)] == accepted and len(tested) <= len(accepted) + 1
    assert report["full_depth_score"] == 1.0 and report["mean_depth"] < 5 and len(lines) == len(tested) + 1
    assert model.deed_config.calibration is report


def test_losses_are_those_of_the_generated_answers():
    """Recomputed by hand at one threshold, with labels and a batch size that splits the set."""
    model = agreement_model(0.3)
    data = examples(64)
    answers = []
    for x in data:
        ids = torch.tensor([x["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, exit_threshold=2.0)
        new = out[0, 1:].tolist()
        answers.append(new[: new.index(1) + 1] if 1 in new else new)
    for i, x in enumerate(data):
        x["labels"] = [*answers[i], -100] if i % 4 else [39] * 9  # a quarter wrong even at full depth
    lost = right = 0
    for i, x in enumerate(data):
        ids = torch.tensor([x["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, exit_threshold=0.4)
        new = out[0, 1:].tolist()
        same = (new[: new.index(1) + 1] if 1 in new else new) == answers[i]
        right += bool(same and i % 4)
        lost += bool(not same and i % 4)
    report = deed.calibrate(model, data, risk=0.3, confidence=0.9, thresholds=[0.4], max_new_tokens=4, batch_size=10)
    row = report["tested"][0]
    assert report["full_depth_score"] == 0.75
    assert row["loss"] == pytest.approx(lost / 64) and row["score"] == pytest.approx(right / 64) and 0 < lost < 48


def test_a_score_that_full_depth_never_gets_is_warned_of():
    data = [{**x, "labels": [39] * 9} for x in examples(60)]
    model = agreement_model(0.05)
    with pytest.warns(UserWarning, match="is no promise at all"):
        deed.calibrate(model, data, risk=0.1, confidence=0.9, max_new_tokens=3)


def test_calibration_switches_dropout_off_and_leaves_the_mode_as_it_was():
    reports = []
    for training in (False, True):
        model = agreement_model(0.3).train(training)
        reports.append(deed.calibrate(model, examples(40), risk=0.3, confidence=0.9, max_new_tokens=3))
        assert model.training == training
    assert reports[0] == reports[1]


def test_where_nothing_passes_the_model_never_exits_early():
    model = deed_model("bart", dtype=torch.float32)
    report = deed.calibrate(model, examples(40), risk=0.1, confidence=0.95, thresholds=[0.2], max_new_tokens=5)
    assert report["threshold"] == 2.0 == model.deed_config.threshold
    g = model.generate(**batch(), max_new_tokens=3, return_dict_in_generate=True)
    assert set(g.exit_layers.flatten().tolist()) <= {0, 5}


def test_the_report_is_saved_with_the_model(tmp_path):
    model = agreement_model(0.05)
    deed.calibrate(model, examples(60), risk=0.2, thresholds=[0.99], max_new_tokens=3)
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path)
    assert loaded.deed_config.calibration == model.deed_config.calibration
    assert loaded.deed_config.threshold == model.deed_config.threshold


def scripted(monkeypatch, answers):
    """`generate_all` gives what the script says for a threshold: the same token for every example."""

    def generate_all(model, examples, threshold, batch_size, options, tick):
        return [[token] for token in answers[threshold]], 3.0

    monkeypatch.setattr(learn_then_test, "generate_all", generate_all)


def test_the_sequence_ends_at_the_first_threshold_that_is_not_accepted(monkeypatch):
    """A looser threshold that would pass again is never looked at: on that the bound rests, without a correction for
    several tests."""
    n = 60
    scripted(monkeypatch, {2.0: [7] * n, 0.9: [7] * n, 0.8: [8] * n, 0.7: [7] * n})
    model = deed_model("t5_tied")
    report = calibrate(model, examples(n), risk=0.1, thresholds=[0.7, 0.9, 0.8])
    assert [(row["threshold"], row["accepted"]) for row in report["tested"]] == [(0.9, True), (0.8, False)]
    assert report["threshold"] == model.deed_config.threshold == 0.9


def test_gains_do_not_pay_for_losses(monkeypatch):
    """Early exit is better on half of the examples and worse on a quarter: the mean score rises, but a quarter is lost."""
    n = 80
    full = [1] * 40 + [0] * 40
    early = [1] * 20 + [0] * 20 + [1] * 40
    scripted(monkeypatch, {2.0: full, 0.5: early})
    report = calibrate(
        deed_model("t5_tied"), examples(n), risk=0.1, thresholds=[0.5], score=lambda tokens, example: float(tokens[0])
    )
    (row,) = report["tested"]
    assert row["score"] == 0.75 > report["full_depth_score"] == 0.5
    assert row["loss"] == 0.25 and not row["accepted"] and report["threshold"] == 2.0
    assert row["p_value"] == pytest.approx(stats.binom.cdf(20, 80, 0.1))


def test_a_model_that_gives_nan_is_not_calibrated():
    model = deed_model("t5_tied", dtype=torch.float32)
    with torch.no_grad():
        model.decoder.block[-1].layer[-1].DenseReluDense.wo.weight.fill_(float("nan"))
    with pytest.raises(CalibrationError, match=r"logits are not a number \(NaN\)"):
        calibrate(model, examples(60), risk=0.3, max_new_tokens=3)
    assert model.deed_config.threshold == 0.9 and model.deed_config.calibration is None


@pytest.mark.parametrize("risk", [1e-17, 5e-324])
def test_a_tiny_risk_needs_very_many_examples(risk):
    with pytest.raises(CalibrationError, match=r"needs at least [\d.]+e\+\d+ examples"):
        calibrate(deed_model("t5_tied"), examples(5), risk=risk, max_new_tokens=2)


def test_tiny_risks_lose_no_digits():
    assert examples_needed(1e-12, 0.95) == pytest.approx(-np.log(0.05) / 1e-12)
    assert binomial_cdf(0, 1000, 1e-17) == pytest.approx(1 - 1e-14)
    assert hoeffding_bentkus(0.0, 10**16, 1e-16) == pytest.approx(np.exp(-1.0))


@pytest.mark.parametrize("losses", [[], [0.5, 1.5], [-0.1], [float("nan")]])
def test_no_p_value_without_evidence(losses):
    with pytest.raises(ValueError, match="a p-value needs losses"):
        p_value(losses, 0.1)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"asking": {"name": "shortlist", "size": 8}}, "exit_check", {"name": "shortlist", "size": 8}),
        ({"confidence_over": "allowed"}, "confidence_over", "allowed"),
        ({}, "confidence_over", "all"),
    ],
)
def test_what_the_promise_depends_on_is_stored(options, field, value, tmp_path):
    """Saved, loaded, and without further options `generate()` does what was calibrated."""
    model = agreement_model(0.1)
    data = examples(40)
    report = calibrate(model, data, risk=0.3, confidence=0.9, thresholds=[0.4], max_new_tokens=4, **options)
    assert getattr(model.deed_config, field) == value
    assert report[field] == value and report["generate"]["max_new_tokens"] == 4
    assert report["measure"] == "max_prob" and report["exit_layers"] == [1, 2, 3, 4, 5]
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path)
    ids = torch.tensor([data[0]["input_ids"]])
    wanted = model.generate(ids, max_new_tokens=4, exit_threshold=0.4, return_dict_in_generate=True, **options)
    found = loaded.generate(ids, max_new_tokens=4, exit_threshold=0.4, return_dict_in_generate=True)
    assert torch.equal(wanted.exit_layers, found.exit_layers) and torch.equal(wanted.sequences, found.sequences)
    assert wanted.past_key_values.confidence_over == found.past_key_values.confidence_over


def test_labels_filled_up_with_the_pad_token_count_the_same():
    model, data = agreement_model(0.05), examples(40)
    options = {"risk": 0.3, "confidence": 0.9, "thresholds": [0.9], "max_new_tokens": 5}
    for x in data:
        out = model.generate(torch.tensor([x["input_ids"]]), max_new_tokens=5, exit_threshold=2.0)
        x["labels"] = out[0, 1:].tolist()
    reports = []
    for fill in ([], [-100] * 3, [0] * 3, [0, 0, -100]):
        reports.append(calibrate(model, [{**x, "labels": [*x["labels"], *fill]} for x in data], **options))
    assert all(report == reports[0] for report in reports) and reports[0]["full_depth_score"] == 1.0


@pytest.mark.parametrize("value", ["0.1", True, None, [0.1], 0, 1.0, float("nan")])
@pytest.mark.parametrize("name", ["risk", "confidence"])
def test_bounds_that_are_no_numbers_are_refused(name, value):
    no = "" if type(value) in (int, float) else "which is no number"
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got .*{no}"):
        calibrate(agreement_model(0.05), iter(lambda: pytest.fail("read the data"), None), **{name: value})


def test_lines_say_what_the_p_value_is_for():
    lines = []
    calibrate(agreement_model(0.05), examples(40), risk=0.3, thresholds=[0.9], max_new_tokens=3, progress=lines.append)
    assert len(lines) == 2 and lines[0] == "full depth: score 1.0000"
    assert "for losing more than 0.3: accepted (limit 0.05)" in lines[1] and "p-value " in lines[1]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_by_default_on_a_terminal_only(terminal, monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    calibrate(agreement_model(0.05), examples(40), risk=0.3, thresholds=[0.9], max_new_tokens=3)
    shown = capsys.readouterr()
    assert ("threshold 0.9" in shown.err) == terminal and not shown.out


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"exit_check": {"name": "screen", "rank": 4}}, "exit_check"),
        ({"confidence_over": "allowed"}, "confidence_over"),
        ({"confidence": "margin"}, "measure"),
    ],
)
def test_other_settings_than_the_calibrated_ones_are_told_once(options, field, recwarn):
    model, data = agreement_model(0.05), examples(40)
    report = calibrate(model, data, risk=0.3, confidence=0.9, thresholds=[0.9], max_new_tokens=3)
    assert report["threshold"] == 0.9
    ids = torch.tensor([data[0]["input_ids"]])
    recwarn.clear()

    def told():
        count = sum("deed.calibrate promised does not hold" in str(w.message) for w in recwarn.list)
        recwarn.clear()
        return count

    model.generate(ids, max_new_tokens=3)
    model.generate(ids, max_new_tokens=3, exit_check={"name": "plain"}, confidence_over="all")
    assert told() == 0, "these are the calibrated ones"
    model.deed_config.confidence = options.pop("confidence", model.deed_config.confidence)
    model.generate(ids, max_new_tokens=3, exit_threshold=0.9, **options)
    assert told() == 0, "a threshold was given"
    with pytest.warns(UserWarning, match=rf"it is for {field}=.*, not for .*; calibrate again"):
        model.generate(ids, max_new_tokens=3, **options)
    recwarn.clear()
    model.generate(ids, max_new_tokens=3, **options)
    assert told() == 0, "once"
    model.deed_config.threshold = 0.5  # not the calibrated one: nothing was promised
    promise._warned_of.pop(model)
    model.generate(ids, max_new_tokens=3, **options)
    assert told() == 0
