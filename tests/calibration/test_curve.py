"""The curve: what it records is what `generate()` does. Targets: the right point of a curve, and clear refusals."""

import json
import random
import warnings

import pytest
import torch

import deed
from conftest import VOCAB, deed_model
from data.g2p_words import answer
from deed import DeedConfig
from deed.calibration import curve as curve_module
from deed.calibration.curve import record_curve, set_target
from deed.calibration.exit_check import FIELD
from deed.cli.demo import CHECKPOINT
from deed.data.readers import cmudict
from deed.errors import ExitsCostMore
from deed.tasks.loading import load_saved


def examples(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(3, VOCAB, (5,), generator=generator).tolist()} for _ in range(n)]


def point(threshold, drop, speedup, asking="plain"):
    ratio = {"median": speedup, "p25": speedup, "p75": speedup}
    return {"threshold": threshold, "asking": asking, "score_drop": drop, "score": 0.9 - drop, "speedup": ratio}


def with_curve(points, **config):
    model = deed_model("t5_tied", DeedConfig(**config))
    model.deed_config.curve = {"points": points, "exit_layers": [1, 2, 3, 4, 5], "confidence": "max_prob"}
    return model


POINTS = [
    point(2.0, 0.0, 1.0),
    point(0.99, 0.0, 1.4),
    point(0.9, 0.01, 2.2),
    point([0.9, 2.0, 0.7, 2.0], 0.004, 2.1),
    point(0.6, 0.05, 3.5),
    point([0.5, 2.0, 0.5, 2.0], 0.05, 3.6),
]


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        ({"score_drop": 0.0}, 1),
        ({"score_drop": 0.005}, 3),
        ({"score_drop": 0.01}, 2),
        ({"score_drop": 0.5}, 5),
        ({"speedup": 1.0}, 1),
        ({"speedup": 2.0}, 3),
        ({"speedup": 2.15}, 2),
        ({"speedup": 3.0}, 5),
        ({"speedup": 3.6}, 5),
    ],
)
def test_the_point_that_a_target_gets(target, chosen):
    """Fastest within the drop; best-scoring of the fast enough, of equals the faster."""
    model = with_curve(POINTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set_target(model, **target) is POINTS[chosen]
    assert model.deed_config.threshold == POINTS[chosen]["threshold"]
    assert model.deed_config.threshold is not POINTS[chosen]["threshold"] or chosen < 3, "a copy, not the curve's list"
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, return_dict_in_generate=True)
    assert out.exit_layers.shape == (1, 2)


def test_unreachable_targets_name_the_best_and_change_nothing():
    model = with_curve(POINTS, threshold=0.77)
    with pytest.raises(ValueError, match=r"no recorded point is 4 times .* speedup=3.60, with a score drop of 0.0500"):
        set_target(model, speedup=4.0)
    assert model.deed_config.threshold == 0.77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one target"),
        ({"score_drop": 0.1, "speedup": 2.0}, "exactly one target"),
        ({"score_drop": -0.1}, r"score_drop must lie in \[0, 1\)"),
        ({"score_drop": float("nan")}, "score_drop must lie"),
        ({"speedup": 0.5}, "speedup must be a number of at least 1"),
        ({"speedup": float("nan")}, "speedup must be"),
    ],
)
def test_bad_targets(arguments, message):
    with pytest.raises(ValueError, match=message):
        set_target(with_curve(POINTS), **arguments)


def test_a_curve_is_needed_and_has_to_fit():
    with pytest.raises(ValueError, match=r"no score-latency curve .* deed.record_curve\(model, examples\)"):
        set_target(deed_model("t5_tied"), speedup=2.0)
    with pytest.raises(
        ValueError, match=r"the recorded curve is for exit_layers=\[1, 2, 3, 4, 5\], .* record it again"
    ):
        set_target(with_curve(POINTS, exit_layers=[2, 5]), speedup=2.0)
    with pytest.raises(ValueError, match="for confidence='max_prob', the model has 'margin'"):
        set_target(with_curve(POINTS, confidence="margin"), speedup=2.0)


def test_exits_that_cost_more_than_they_save_are_warned_of():
    slow = [point(2.0, 0.0, 1.0), point(0.9, 0.0, 0.8), point(0.3, 0.2, 1.5)]
    model = with_curve(slow, threshold=0.9)
    with pytest.warns(ExitsCostMore, match=r"at no threshold with a score drop of at most 0.01"):
        assert set_target(model, score_drop=0.01) is slow[0]
    assert model.deed_config.threshold == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_target(model, score_drop=0.2)
    assert model.deed_config.threshold == 0.3


def test_a_point_brings_its_exit_check_also_from_an_earlier_curve():
    model = with_curve([point(2.0, 0.0, 1.0), point(0.9, 0.0, 2.0, {"name": "shortlist", "size": 5})])
    set_target(model, score_drop=0.0)
    assert getattr(model.deed_config, FIELD) == {"name": "shortlist", "size": 5} and model.deed_config.threshold == 0.9
    set_target(with_curve(POINTS), speedup=2.0)


def test_points_are_what_generate_does(kind, monkeypatch):
    """Scores, drops and depths recomputed one example at a time; times are given by the test."""
    model, data = deed_model(kind, dtype=torch.float32), examples(9)
    given = {}

    def times(model, timed, settings, *rest):
        given.update(timed=timed, settings=settings)
        return [[4.0, 8.0] if i == 0 else [2.0, 2.0] for i in range(len(settings))]

    monkeypatch.setattr(curve_module, "_times", times)
    thresholds = [0.5, 0.8]
    curve = record_curve(model, data, thresholds=thresholds, budgets=(0.1, 0.5), timed=3, max_new_tokens=6)
    assert model.deed_config.curve is curve and json.loads(json.dumps(curve)) == curve
    full, *early = curve["points"]
    assert full["threshold"] == 2.0 and full["score"] == 1.0 and full["score_drop"] == 0 and full["mean_depth"] == 5
    assert full["speedup"]["median"] == full["speedup_total"] == 1.0
    assert [p["threshold"] for p in early[:2]] == [0.8, 0.5] and [p["budget"] for p in early[:2]] == [None, None]
    assert all(len(p["threshold"]) == 4 and p["budget"] in (0.1, 0.5) for p in early[2:])
    assert (curve["examples"], curve["timed"], curve["tuning_examples"]) == (4, 3, 5)
    assert given["timed"] == data[1::2][:3] and len(given["settings"]) == len(curve["points"])
    for row in early:
        same, depths = [], []
        for example in data[1::2]:
            ids = torch.tensor([example["input_ids"]])
            reference = model.generate(ids, max_new_tokens=6, exit_threshold=2.0)
            out = model.generate(ids, max_new_tokens=6, exit_threshold=row["threshold"], return_dict_in_generate=True)
            same.append(float(torch.equal(reference, out.sequences)))
            depths += [d for d in out.exit_layers[0].tolist() if d]
        assert row["score"] == pytest.approx(sum(same) / 4)
        assert row["score_drop"] == pytest.approx(1 - sum(same) / 4)
        assert row["score_drop_error"] == pytest.approx((row["score"] * row["score_drop"] / 4) ** 0.5)
        assert row["mean_depth"] == pytest.approx(sum(depths) / len(depths))
        assert row["speedup"] == {"median": 3.0, "p25": 2.5, "p75": 3.5} and row["speedup_total"] == 3.0
    assert set(curve["machine"]) >= {"processor", "torch_threads"} and curve["versions"]["deed"] == deed.__version__
    assert curve["generate"] == {"max_new_tokens": 6}


def test_slow_exits_are_warned_of_when_recorded(monkeypatch):
    monkeypatch.setattr(curve_module, "_times", lambda m, e, settings, *r: [[1.0 + i] for i in range(len(settings))])
    model = deed_model("t5_tied", dtype=torch.float32)
    with pytest.warns(ExitsCostMore, match="exits cost more than they save: at no threshold"):
        record_curve(model, examples(4), thresholds=[0.5], budgets=(), max_new_tokens=3)


def test_where_exits_cannot_be_chosen_one_by_one_there_are_global_points_only(monkeypatch):
    monkeypatch.setattr(
        curve_module, "_times", lambda m, e, settings, *r: [[2.0 - (i > 0)] for i in range(len(settings))]
    )
    model = deed_model("t5_tied", DeedConfig(confidence={"name": "patience", "patience": 2}), dtype=torch.float32)
    curve = record_curve(model.train(), examples(4), thresholds=[0.5, 1.0], max_new_tokens=3)
    assert [p["threshold"] for p in curve["points"]] == [2.0, 1.0, 0.5] and model.training
    assert set_target(model, speedup=1.5)["threshold"] in (0.5, 1.0)


def test_every_exit_check_is_measured(monkeypatch):
    monkeypatch.setattr(
        curve_module, "_times", lambda m, e, settings, *r: [[2.0 - (i > 0)] for i in range(len(settings))]
    )
    model, ways = deed_model("t5_tied", dtype=torch.float32), ["plain", {"name": "shortlist", "size": 8}]
    curve = record_curve(model, examples(4), thresholds=[0.6], exit_checks=ways, budgets=(0.3,), max_new_tokens=3)
    assert [p["exit_check"] for p in curve["points"] if p["threshold"] == 0.6] == ways
    assert all(p["exit_check"] == "plain" for p in curve["points"] if p["budget"] is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": [0.5, 1.5]}, r"thresholds must be numbers in \(0, 1\]"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"timed": 0}, "timed must be at least 1"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"asking": "plain"}, "pass exit_checks="),
        ({"exit_threshold": 0.5}, "exit_threshold is what a curve is measured over"),
        ({"budgets": (-0.1,)}, "budgets must be"),
        ({"score": lambda tokens, example: 2.0}, r"score must return a value in \[0, 1\]"),
    ],
)
def test_bad_arguments(options, message):
    model = deed_model("t5_tied", dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        record_curve(model, examples(4), max_new_tokens=2, **options)
    assert getattr(model.deed_config, "curve", None) is None
    with pytest.raises(ValueError, match="at least two examples"):
        record_curve(model, examples(1))


def test_the_shipped_model_gets_faster(tmp_path):
    """A real curve: batches, rounds, progress; a target set by it holds on the words it was measured on."""
    model, tokenizer = load_saved(CHECKPOINT)
    rows = cmudict.load_split("calibration")
    random.Random(0).shuffle(rows)
    rows = rows[:24]
    ids = tokenizer([word for word, _ in rows]).input_ids
    data = [{"input_ids": i, "answers": answers} for i, (_, answers) in zip(ids, rows, strict=True)]

    def score(tokens, example):
        return float(tokenizer.decode(tokens, skip_special_tokens=True) in example["answers"])

    seen = []
    curve = record_curve(
        model,
        data,
        score=score,
        thresholds=[0.95, 0.5],
        budgets=(0.01,),
        batch_size=2,
        timed=5,
        repeats=2,
        progress=lambda line, share: seen.append(share),
    )
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1.0)
    full, strict, loose, chosen = curve["points"]
    assert full["mean_depth"] == 8 > strict["mean_depth"] > loose["mean_depth"] and chosen["mean_depth"] < 8
    assert loose["speedup"]["median"] > 1 and loose["decoder_ms"]["median"] > 0 and curve["timed"] == 5
    words = [word for word, _ in rows[1::2]]
    for row in (full, strict, loose, chosen):
        answers, depth = answer(model, tokenizer, words, row["threshold"])
        right = sum(a in listed for a, (_, listed) in zip(answers, rows[1::2], strict=True))
        assert row["score"] == pytest.approx(right / 12) and row["mean_depth"] == pytest.approx(depth)
    point = set_target(model, speedup=1.0)
    assert model.deed_config.threshold == point["threshold"] and point["speedup"]["median"] >= 1


def test_the_curve_is_saved_with_the_model(tmp_path):
    model = with_curve(POINTS)
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path)
    assert loaded.deed_config.curve == model.deed_config.curve
    assert set_target(loaded, score_drop=0.005) == POINTS[3]
