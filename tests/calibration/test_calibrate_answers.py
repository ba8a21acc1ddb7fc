"""`deed.calibrate_answers` on a tiny model: what is stored, what is refused, and that failures leave the model as it was."""

import copy

import numpy as np
import pytest
import torch

import deed
from conftest import batch, deed_model
from deed import CalibrationError, DeedConfig
from deed.calibration import calibrate_answers as module
from deed.modeling.answer_confidence import NEVER_SURE

OPTIONS = {"max_new_tokens": 3, "batch_size": 50}


def examples(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (n,), generator=generator).tolist()
    return [
        {"input_ids": torch.randint(3, 40, (k,), generator=generator).tolist(), "number": i}
        for i, k in enumerate(lengths)
    ]


@pytest.fixture
def model():
    return deed_model("t5_tied", DeedConfig(threshold=0.4), seed=3, dtype=torch.float32)


def by_length(tokens, row):
    """Right where the source is short: something that features tell."""
    return len(row["input_ids"]) <= 6


def test_what_features_tell_is_found_stored_and_used(model):
    lines = []
    report = deed.calibrate_answers(
        model, examples(400), risk=0.2, confidence=0.9, right=by_length, progress=lines.append, **OPTIONS
    )
    assert report["reliability"]["ece"] < 0.1 and report["reliability"]["auroc"] > 0.95
    assert report["examples"] == 400 and 150 < report["certified_on"] < 250 and len(lines) == 1
    assert 0.4 < report["coverage"] < 0.9 and report["selective_risk"] <= 0.2 and report["tested"][0]["accepted"]
    stored = model.deed_config.answer_calibration
    assert stored["abstain_below"] == report["abstain_below"] <= 1 and stored["version"] == 1
    assert stored["settings"]["threshold"] == 0.4 and stored["settings"]["exit_layers"] == [1, 2, 3, 4, 5]
    new = examples(60, seed=1)
    sure = []
    for row in new:
        ids = torch.tensor([row["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, answer_confidence=True)
        sure.append(out.confidence.item() >= report["abstain_below"])
    right = [by_length(None, row) for row in new]
    assert np.mean([r for r, s in zip(right, sure, strict=True) if s]) > 0.8 and sum(sure) > 20


def test_labels_say_what_is_right_where_nothing_else_does(model):
    rows = examples(120)
    for i, row in enumerate(rows):
        ids = torch.tensor([row["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)
        row["labels"] = out[0, 1:].tolist() if i % 4 else [5]
    with pytest.warns(UserWarning, match="never sure"):
        report = deed.calibrate_answers(model, rows, **OPTIONS)
    assert report["reliability"]["accuracy"] == pytest.approx(0.75, abs=0.1)
    assert report["abstain_below"] == NEVER_SURE and report["given"] == 0


def test_groups_are_not_divided_and_parts_are_reported(model, monkeypatch):
    seen = []
    fit = module.fit_confidence

    def spy(features, states, right, groups):
        seen.extend(groups)
        return fit(features, states, right, groups)

    monkeypatch.setattr(module, "fit_confidence", spy)
    report = deed.calibrate_answers(
        model,
        examples(400),
        risk=0.3,
        confidence=0.9,
        right=by_length,
        group=lambda row: row["number"] // 10,
        part=lambda row: "even" if row["number"] // 10 % 2 else "odd",
        **OPTIONS,
    )
    assert all(seen.count(group) == 10 for group in set(seen)) and 10 < len(set(seen)) < 30
    assert set(report["parts"]) == {"even", "odd"} and all(part["promised"] for part in report["parts"].values())
    assert sum(part["given"] for part in report["parts"].values()) == report["given"]
    assert len(seen) + report["certified_on"] == 400


@pytest.mark.parametrize(
    ("count", "options", "error", "message"),
    [
        (57, {}, CalibrationError, r"at most 0\.1 .* needs at least 58 examples .* got 57"),
        (80, {"risk": 0}, ValueError, "risk must lie"),
        (80, {"confidence": "high"}, ValueError, "confidence must lie"),
        (80, {"exit_threshold": 0.5}, ValueError, "leave exit_threshold out"),
        (80, {"num_beams": 2}, ValueError, "not for num_beams=2"),
        (80, {"right": None}, ValueError, "add labels, or pass right="),
        (80, {"group": lambda row: "one"}, CalibrationError, "too few groups"),
        (80, {"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
        (80, {"right": lambda tokens, row: 1 / 0}, ZeroDivisionError, "division"),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(model, count, options, error, message):
    deed.calibrate_answers(model, examples(100), risk=0.3, right=by_length, **OPTIONS)
    before = copy.deepcopy(model.deed_config.to_dict())
    with pytest.raises(error, match=message):
        deed.calibrate_answers(model, examples(count), **{"right": by_length, **OPTIONS, **options})
    assert model.deed_config.to_dict() == before


def test_logits_that_are_no_numbers_are_refused(model):
    with torch.no_grad():
        model.shared.weight.fill_(float("nan"))
    with pytest.raises(CalibrationError, match="not a number"):
        deed.calibrate_answers(model, examples(80), right=by_length, **OPTIONS)
    assert model.deed_config.answer_calibration is None


def test_calibrating_again_for_other_settings_is_not_refused_by_what_is_stored(model):
    deed.calibrate_answers(model, examples(100), risk=0.3, right=by_length, **OPTIONS)
    model.deed_config.threshold = 0.8
    with pytest.raises(ValueError, match="other settings"):
        model.generate(**batch(), max_new_tokens=2, answer_confidence=True)
    deed.calibrate_answers(model, examples(100), risk=0.3, right=by_length, exit_check="screen", **OPTIONS)
    assert model.deed_config.answer_calibration["settings"]["exit_check"] == "screen"
    model.generate(**batch(), max_new_tokens=2, answer_confidence=True, exit_check="screen")


def test_dropout_is_off_and_the_mode_stays(model):
    reports = []
    for training in (False, True):
        model.train(training)
        reports.append(deed.calibrate_answers(model, examples(100), risk=0.3, right=by_length, **OPTIONS))
        assert model.training == training
    assert reports[0] == reports[1]
