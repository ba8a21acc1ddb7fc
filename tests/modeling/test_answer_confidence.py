"""Answer confidence at generation: features against a recomputation, tokens untouched, what is refused, what is saved."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deed
from conftest import batch, deed_model
from deed import DeedConfig, DeedConfigError, DeedLoadError
from deed.modeling import answer_confidence as module
from deed.modeling.answer_confidence import NAMES, AnswerConfidence, confidence_problem, exit_settings
from deed.modeling.answer_watch import FEATURES

KEEP = {"max_new_tokens": 6, "return_dict_in_generate": True}
INDEX = {name: i for i, name in enumerate(FEATURES)}


def stored(width=32, **changes):
    """A calibration that answers by a few of the features."""
    names = ["log_prob_mean", "depth_max", "source_distance"]
    values = {
        "features": names,
        "center": [-1.0, 0.5, 0.0],
        "scale": [1.0, 0.3, 1.0],
        "weights": [
            1.0,
            -0.5,
            -0.2,
            0.1,
            -0.1,
            0.05,
            0.2,
            0.3,
            -0.15,
        ],  # features, squares, products with the distance
        "bias": 0.3,
        "products": True,
        "map": [0.9, 1.1, -0.1],
        "source_mean": [0.1] * width,
        "source_variance": [2.0] * width,
        "abstain_below": 0.8,
        "version": 1,
    }
    return {**values, **changes}


def by_hand(model, out, inputs, r):
    """Features of row r, from teacher-forced logits of every exit."""
    depths = [d for d in out.exit_layers[r].tolist() if d]
    row = {k: v[r : r + 1] for k, v in inputs.items()}
    logits = model.exit_logits(**row, decoder_input_ids=out.sequences[r : r + 1, :-1])[:, 0]  # [exits, length, vocab]
    exits = model.deed_config.exit_layers
    new = out.sequences[r, out.sequences.shape[1] - out.exit_layers.shape[1] :].tolist()
    log_probs, margins, wrong, first = [], [], [], []
    for t, depth in enumerate(depths):
        at = [logits[e, t].log_softmax(-1) for e in range(exits.index(depth) + 1)]
        log_probs.append(at[-1][new[t]].item())
        top = at[-1].exp().topk(2).values
        margins.append((top[0] - top[1]).item())
        wrong.append(sum(x.argmax() != at[-1].argmax() for x in at[:-1]).item() if len(at) > 1 else 0)
        first.append(at[0].max().item())
    n, layers = len(depths), len(model.deed_family.layers(model))
    return {
        "log_tokens": math.log(n),
        "log_prob_sum": sum(log_probs),
        "log_prob_mean": sum(log_probs) / n,
        "log_prob_min": min(log_probs),
        "margin_min": min(margins),
        "depth_mean": sum(depths) / n / layers,
        "depth_max": max(depths) / layers,
        "first_exit_share": sum(d == exits[0] for d in depths) / n,
        "disagreement_mean": sum(wrong) / n / (len(exits) - 1),
        "disagreement_max": max(wrong) / (len(exits) - 1),
        "first_log_prob_min": min(first),
        "log_source": math.log(int(inputs["attention_mask"][r].sum())),
    }


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("exits", [None, [2, 4]])
def test_features_are_those_of_every_exits_logits(kind, exits, sampling):
    seed, ends = {"t5_tied": (3, [31, 39, 27]), "t5_untied_gated": (2, [35, 20, 28]), "bart": (0, [1, 7])}[kind]
    model = deed_model(kind, DeedConfig(exit_layers=exits, threshold=0.35), seed=seed)
    model.generation_config.eos_token_id = ends  # so that rows end at different steps
    inputs = batch(rows=6)
    torch.manual_seed(0)
    plain = model.generate(**inputs, **KEEP, do_sample=sampling)
    torch.manual_seed(0)
    out = model.generate(**inputs, **KEEP, do_sample=sampling, answer_confidence=True)
    assert torch.equal(out.sequences, plain.sequences) and torch.equal(out.exit_layers, plain.exit_layers)
    assert plain.answer_features is None and out.confidence is None, "nothing is calibrated"
    if exits is None and not sampling:
        assert len(set((out.exit_layers > 0).sum(1).tolist())) > 1 and len(set(out.exit_layers.flatten().tolist())) > 2
        assert out.answer_features[:, INDEX["disagreement_max"]].max() > 0, "exits that disagree are among them"
    for r in range(6):
        expected = by_hand(model, out, inputs, r)
        found = dict(zip(FEATURES, out.answer_features[r].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5), r


def test_source_states_are_means_of_what_is_no_padding(kind):
    model, inputs = deed_model(kind), batch()
    out = model.generate(**inputs, **KEEP, answer_confidence=True)
    encoded = model.get_encoder()(**inputs).last_hidden_state
    for r in range(4):
        kept = encoded[r][inputs["attention_mask"][r] == 1]
        torch.testing.assert_close(out.source_states[r], kept.mean(0).double())
    whole = {k: v[:1] for k, v in inputs.items()}  # without padding there is no mask to go by
    alone = model.generate(**whole, **KEEP, answer_confidence=True)
    torch.testing.assert_close(alone.source_states[0], out.source_states[0])
    torch.testing.assert_close(alone.answer_features[0], out.answer_features[0])


def test_a_screen_leaves_the_same_features_where_the_exact_head_was_run():
    model = deed_model("t5_tied", DeedConfig(threshold=0.35), dtype=torch.float32)
    plain = model.generate(**batch(), **KEEP, answer_confidence=True)
    out = model.generate(**batch(), **KEEP, answer_confidence=True, exit_check="screen")
    assert torch.equal(out.sequences, plain.sequences)
    same = [INDEX[name] for name in ("log_prob_sum", "log_prob_min", "margin_min", "depth_mean", "depth_max")]
    torch.testing.assert_close(out.answer_features[:, same], plain.answer_features[:, same], atol=1e-4, rtol=1e-4)


def test_confidence_is_the_stored_models(kind):
    model = deed_model(kind, DeedConfig(threshold=0.35))
    model.deed_config.answer_calibration = stored()
    inputs = batch()
    out = model.generate(**inputs, max_new_tokens=6, answer_confidence=True)  # an output, though none was asked for
    assert out.confidence.shape == (4,) and len(set(out.confidence.tolist())) == 4
    for r in range(4):
        f = out.answer_features[r]
        far = ((out.source_states[r] - 0.1) ** 2 / 2.0).mean().log()
        z = [
            (f[INDEX["log_prob_mean"]] + 1.0).clamp(-3, 3),
            ((f[INDEX["depth_max"]] - 0.5) / 0.3).clamp(-3, 3),
            far.clamp(-3, 3),
        ]
        squares = 0.1 * z[0] ** 2 - 0.1 * z[1] ** 2 + 0.05 * z[2] ** 2
        products = z[2] * (0.2 * z[0] + 0.3 * z[1] - 0.15 * z[2])
        raw = float(z[0] * 1.0 - z[1] * 0.5 - z[2] * 0.2 + squares + products + 0.3)
        s = 1 / (1 + math.exp(-raw))
        odds = 0.9 * math.log(s) - 1.1 * math.log(1 - s) - 0.1
        assert out.confidence[r].item() == pytest.approx(1 / (1 + math.exp(-odds)))
    alone = model.generate(**{k: v[:1] for k, v in inputs.items()}, max_new_tokens=6, answer_confidence=True)
    assert alone.confidence[0].item() == pytest.approx(out.confidence[0].item())


def test_nothing_is_watched_where_nobody_asks(monkeypatch):
    model = deed_model("t5_tied")
    model.deed_config.answer_calibration = stored()

    def refuse(*args, **kwargs):
        raise AssertionError("watched")

    monkeypatch.setattr(module, "AnswerWatch", refuse)
    out = model.generate(**batch(), **KEEP)
    assert "confidence" not in out and "answer_features" not in out
    assert type(out.past_key_values.policy).__name__ == "ThresholdPolicy"
    with pytest.raises(AssertionError, match="watched"):
        model.generate(**batch(), **KEEP, answer_confidence=True)


def calibrated_for(model, **options):
    config = model.deed_config
    values = {"threshold": None, "policy": None, "exit_check": config.exit_check, "over": config.confidence_over}
    config.answer_calibration = stored(settings=exit_settings(config, **{**values, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exit_threshold": 0.5}, r"threshold=0\.9, not for 0\.5"),
        ({"exit_threshold": [0.5, 0.5, 0.5, 0.9]}, r"threshold=0\.9, not for \[0\.5"),
        ({"exit_threshold": torch.tensor([0.9, 0.8, 0.9, 0.9])}, r"threshold=0\.9, not for \[0\.8"),
        ({"exit_policy": deed.FixedSchedule([1])}, r"threshold=0\.9, not for 'FixedSchedule'"),
        ({"exit_check": "screen"}, "exit_check='plain', not for 'screen'"),
        ({"confidence_over": "allowed"}, "confidence_over='all', not for 'allowed'"),
    ],
)
def test_other_settings_are_refused(options, message):
    model = deed_model("t5_tied", dtype=torch.float32)
    calibrated_for(model)
    with pytest.raises(ValueError, match=f"other settings: it is for {message}"):
        model.generate(**batch(), max_new_tokens=2, answer_confidence=True, **options)
    assert "other settings" in confidence_problem(model, options)


def test_the_same_settings_in_another_form_are_not_refused():
    model = deed_model("t5_tied", dtype=torch.float32)
    calibrated_for(model)
    for options in (
        {"exit_threshold": 0.9},
        {"exit_threshold": torch.tensor([0.9] * 4, dtype=torch.float64)},
        {"exit_check": {"name": "plain"}},
    ):
        assert model.generate(**batch(), max_new_tokens=2, answer_confidence=True, **options).confidence is not None
        assert confidence_problem(model, options) == ""


@pytest.mark.parametrize(
    "change", [{"threshold": 0.5}, {"confidence": "margin"}, {"threshold_decay": {"temperature": 1.0, "length": 9}}]
)
def test_a_configuration_that_changed_afterwards_is_refused(change):
    model = deed_model("t5_tied")
    calibrated_for(model)
    for name, value in change.items():
        setattr(model.deed_config, name, value)
    with pytest.raises(ValueError, match="calibrated with other settings"):
        model.generate(**batch(), max_new_tokens=2, answer_confidence=True)


def test_beams_and_continued_caches_are_refused():
    model = deed_model("t5_tied")
    with pytest.raises(ValueError, match="not for num_beams=3"):
        model.generate(**batch(), max_new_tokens=2, num_beams=3, answer_confidence=True)
    model.generation_config.num_beams = 2
    with pytest.raises(ValueError, match="not for num_beams=2"):
        model.generate(**batch(), max_new_tokens=2, answer_confidence=True)
    model.generation_config.num_beams = 1
    out = model.generate(**batch(), **KEEP)
    with pytest.raises(ValueError, match="leave past_key_values out"):
        model.generate(
            **batch(),
            **KEEP,
            decoder_input_ids=out.sequences,
            past_key_values=out.past_key_values,
            answer_confidence=True,
        )
    model.deed_config.answer_calibration = stored(width=16)
    with pytest.raises(ValueError, match="a model of width 16, not of 32"):
        model.generate(**batch(), max_new_tokens=2, answer_confidence=True)


def test_confidence_problem_says_what_is_missing():
    model = deed_model("t5_tied")
    assert "not calibrated" in confidence_problem(model, {})
    model.deed_config.answer_calibration = stored()
    assert confidence_problem(model, {}) == "" and "beams" in confidence_problem(model, {"num_beams": 4})
    assert "exact" in confidence_problem(model, {"exact": True})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-60, 60), min_size=2, max_size=30),
    st.tuples(st.floats(0, 20), st.floats(0, 20), st.floats(-30, 30)),
)
def test_the_map_never_falls(scores, values):
    model = AnswerConfidence.from_dict(stored(map=list(values)))
    mapped = model.mapped(torch.tensor(sorted(scores), dtype=torch.float64))
    assert (mapped.diff() >= -1e-12).all() and (mapped >= 0).all() and (mapped <= 1).all()


def test_saved_with_the_model_and_loaded(tmp_path, kind):
    model = deed_model(kind, DeedConfig(threshold=0.35), dtype=torch.float32)
    calibrated_for(model)
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path)
    assert loaded.deed_config.answer_calibration == model.deed_config.answer_calibration
    one, two = (m.generate(**batch(), max_new_tokens=5, answer_confidence=True) for m in (model, loaded))
    torch.testing.assert_close(one.confidence, two.confidence, atol=1e-5, rtol=1e-5)


def test_a_folder_without_it_loads_as_before(tmp_path):
    model = deed_model("t5_tied", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert "answer_calibration" not in json.loads((tmp_path / "config.json").read_text())["deed_config"]
    loaded = deed.from_pretrained(tmp_path)
    assert loaded.deed_config.answer_calibration is None
    assert loaded.generate(**batch(), max_new_tokens=2, answer_confidence=True).confidence is None


BROKEN = [
    ({"version": 2}, "has version 2, this deed reads version 1"),
    ({"version": None}, "has version None"),
    ({"features": ["weather"]}, "features must be some of log_tokens"),
    ({"features": []}, "features must be some of"),
    ({"weights": [1.0]}, "weights must be a list of 9 numbers"),
    ({"weights": [1.0, True, 0.0]}, "weights must be a list of 9 numbers"),
    ({"weights": "abc"}, "weights must be a list of 9 numbers"),
    ({"map": [1.0, -1.0, 0.0]}, "map's first two not below"),
    ({"scale": [1.0, 0.0, 1.0]}, "scale and source_variance must be above 0"),
    ({"source_variance": [1.0]}, "source_variance must be a list of 32 numbers"),
    ({"source_mean": None}, "source_mean must be a list"),
    ({"products": False}, "weights must be a list of 3 numbers"),
    ({"products": 1}, "products must be true or false"),
    ({"bias": "high"}, "bias must be a number"),
    ({"abstain_below": None}, "abstain_below must be a number"),
    ({"settings": [1]}, "settings must be an object"),
    ({"smoothness": 1}, r"unknown fields or lacks some: \['smoothness'\]"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_broken_calibrations_are_refused_by_field(change, message, tmp_path):
    values = {**stored(), **change}
    with pytest.raises(DeedConfigError, match=message):
        AnswerConfidence.from_dict(copy.deepcopy(values))
    model = deed_model("t5_tied", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["deed_config"]["answer_calibration"] = values
    path.write_text(json.dumps(config))
    with pytest.raises(DeedLoadError, match=f"config.json: deed_config: .*{message}"):
        deed.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [[], "high", 3])
def test_something_else_than_an_object_is_refused(value):
    with pytest.raises(DeedConfigError, match="answer_calibration has version"):
        AnswerConfidence.from_dict(value)


def test_to_dict_is_the_inverse_and_json():
    model = AnswerConfidence.from_dict(stored())
    assert AnswerConfidence.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert set(NAMES) - set(FEATURES) == {"source_distance"}
