"""What cheap asking learns from data: gates and fitted low-rank screens, on the shipped model and in the mechanics."""

import json

import pytest
import torch

import deed
from conftest import batch, deed_model
from data.g2p_words import answer
from deed import DeedConfig, DeedConfigError, DeedLoadError, FixedSchedule, ThresholdPolicy
from deed.calibration.fit_gate import area_under_curve, fit_gate
from deed.calibration.fit_screen import fit_screen
from deed.cli.demo import CHECKPOINT
from deed.data.readers import cmudict
from deed.policies.exit_checks import Gate, Screen
from deed.tasks.loading import load_saved as load


@pytest.fixture(scope="module")
def shipped():
    model, tokenizer = load(CHECKPOINT)
    rows = cmudict.load_split("calibration")[::30][:160]
    examples = [{"input_ids": ids} for ids in tokenizer([w for w, _ in rows]).input_ids]
    return model, tokenizer, examples


def test_gates_tell_better_than_chance_and_leave_early(shipped):
    model, tokenizer, examples = shipped
    lines = []
    report = fit_gate(model, examples, progress=lines.append)
    assert len(lines) == len(report["exits"]) == len(model.deed_config.exit_layers) - 1
    assert model.deed_config.exit_check == "gate" and report["held_out"] > 100
    early = [e["auc"] for e in report["exits"][:4]]
    assert all(a is None or a > 0.5 for a in early) and max(a for a in early if a is not None) > 0.7
    assert report["exits"][0]["agrees"] < report["exits"][-1]["agrees"]
    words = [w for w, _ in cmudict.load_split("test")[::90][:60]]
    full, depth = answer(model, tokenizer, words, 2.0)
    strict, strict_depth = answer(model, tokenizer, words, 0.9)
    _, loose_depth = answer(model, tokenizer, words, 0.3)
    assert loose_depth < strict_depth < depth
    assert sum(a == b for a, b in zip(strict, full, strict=True)) > 0.6 * len(words)
    model.deed_config.exit_check = "plain"
    del model.deed_exits["gate"]


@torch.no_grad()
def test_a_fitted_screen_misses_less_than_one_from_the_weights_alone(shipped):
    model, _, examples = shipped
    rank, kept = 6, {}
    report = fit_screen(model, examples[:60], rank)
    assert model.deed_config.exit_check == {"name": "screen", "rank": rank} and 0 < report["error"] < 1
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(e["input_ids"]) for e in examples[60:90]], True)
    out = model.generate(ids, attention_mask=(ids != 0).long(), exit_threshold=2.0, max_new_tokens=4)
    hidden = (
        model(ids, attention_mask=(ids != 0).long(), decoder_input_ids=out, output_hidden_states=True)
        .decoder_hidden_states[2]
        .flatten(0, 1)
    )
    exact = model.exit_head(2, hidden)
    for name in ("fitted", "weights"):
        if name == "weights":
            del model.deed_exits["screen"]
        screen = Screen(model, rank, refine=0)
        ask = deed.ExitQuery(2, 1, False, 0, torch.arange(len(hidden)), hidden, None, None)
        rough = screen.approximation(ask).logits
        kept[name] = float((rough - exact).sub((rough - exact).mean(-1, keepdim=True)).square().sum())
    assert kept["fitted"] < 0.7 * kept["weights"]
    model.deed_config.exit_check = "plain"


def examples_for(rows=10):
    inputs = batch(rows=rows)
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": ids[mask > 0], "labels": torch.randint(3, 40, (4,), generator=generator)}
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]


def test_learned_tensors_are_saved_and_loaded_and_not_trained(kind, tmp_path):
    model = deed_model(kind, DeedConfig(threshold=0.6), dtype=torch.float32)
    trainable = sum(p.numel() for p in model.deed_exits.parameters())
    plain = model.generate(**batch(), max_new_tokens=8, exit_check="plain", return_dict_in_generate=True)
    fit_screen(model, examples_for(), 9)
    screened = model.generate(**batch(), max_new_tokens=8)
    assert model.deed_config.exit_check["name"] == "screen"
    assert fit_gate(model, examples_for()) == fit_gate(model, examples_for()), "training is deterministic"
    assert sum(p.numel() for p in model.deed_exits.parameters()) == trainable
    got = model.generate(**batch(), max_new_tokens=8, return_dict_in_generate=True)
    assert isinstance(got.past_key_values.policy, ThresholdPolicy)  # a gate is a measure
    assert not torch.equal(got.exit_layers, plain.exit_layers[:, : got.exit_layers.shape[1]])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["deed_config"]["exit_check"] == "gate"
    again = deed.from_pretrained(tmp_path)
    assert torch.equal(again.generate(**batch(), max_new_tokens=8), got.sequences)
    other = again.generate(**batch(), max_new_tokens=8, exit_check={"name": "screen", "rank": 9})
    assert torch.equal(other, screened)
    # Whatever exit_check is set to, the folder stays loadable, and another model's extras do not stay behind.
    again.deed_config.exit_check = "plain"
    again.save_pretrained(tmp_path / "plain")
    assert deed.from_pretrained(tmp_path / "plain").deed_config.exit_check == "plain"
    fresh = deed_model(kind, dtype=torch.float32)
    fresh.save_pretrained(tmp_path / "fresh")
    from deed.modeling.exits_file import load_exits_into

    load_exits_into(again, tmp_path / "fresh")
    assert "gate" not in again.deed_exits and "screen" not in again.deed_exits


def test_a_damaged_gate_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    model = deed_model("bart", DeedConfig(threshold=0.6), dtype=torch.float32)
    fit_gate(model, examples_for())
    model.save_pretrained(tmp_path)
    file = tmp_path / "deed_exits.safetensors"
    tensors = load_file(file)
    tensors["gate.weight"] = tensors["gate.weight"][:2].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DeedConfigError, match="trained gates are for 2 exits, the model has 4"):
        deed.from_pretrained(tmp_path).generate(**batch(), max_new_tokens=2)
    del tensors["1.linear.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DeedLoadError, match="missing"):
        deed.from_pretrained(tmp_path)


def test_gates_serve_schedules_and_every_threshold(kind):
    model = deed_model(kind, dtype=torch.float32)
    fit_gate(model, examples_for())
    flat = [3, 1, 5, 2]
    out = model.generate(
        **batch(), max_new_tokens=6, exit_policy=FixedSchedule(flat, ask=True), return_dict_in_generate=True
    )
    alive = out.exit_layers > 0
    assert (out.exit_layers == torch.tensor([flat[t % 4] for t in range(out.exit_layers.shape[1])]))[alive].all()
    assert isinstance(out.past_key_values.policy.measure, Gate)
    for value in ([0.1, 2.0, 0.5, 0.5], torch.tensor([0.0, 0.5, 0.9, 2.0])):
        out = model.generate(**batch(), max_new_tokens=6, exit_threshold=value, return_dict_in_generate=True)
        depths = out.exit_layers
        assert (
            (depths[3] != 0).any() and not (depths == 2).any()
            if isinstance(value, list)
            else (set(depths[0].tolist()) <= {0, 1} and set(depths[3].tolist()) <= {0, 5})
        )


def test_area_under_curve():
    t = torch.tensor
    assert area_under_curve(t([0.1, 0.2, 0.3, 0.4]), t([False, False, True, True])) == 1
    assert area_under_curve(t([0.4, 0.3, 0.2, 0.1]), t([False, False, True, True])) == 0
    assert area_under_curve(t([0.5, 0.5, 0.5, 0.5]), t([False, True, False, True])) == 0.5
    assert area_under_curve(t([0.1, 0.2]), t([True, True])) is None


def test_errors():
    model = deed_model("bart", dtype=torch.float32)
    with pytest.raises(ValueError, match="no tokens to learn from"):
        fit_gate(model, [])
    with pytest.raises(DeedConfigError, match="rank must be an integer from 1 to 31, got 32"):
        fit_screen(model, examples_for(), 32)
    fit_screen(model, examples_for(), 4)
    with pytest.raises(DeedConfigError, match="fit_screen was run for rank 4"):
        model.generate(**batch(), exit_threshold=0.5, exit_check={"name": "screen", "rank": 5})
    model.generate(**batch(), exit_threshold=0.5, exit_check={"name": "screen", "rank": 3}, max_new_tokens=2)
    only = deed_model("bart", DeedConfig(exit_layers=[5]))
    for fit in (lambda: fit_gate(only, examples_for()), lambda: fit_screen(only, examples_for(), 4)):
        with pytest.raises(ValueError, match="has none"):
            fit()
