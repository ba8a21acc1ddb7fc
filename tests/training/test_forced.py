"""Exits' layers over whole sequences from cached states: against the model's own teacher-forced pass, every class, float64."""

import pytest
import torch
from cases import CASES

from deed.modeling.forward import exit_states
from deed.recipes.tune_teacher import watched_encoder
from deed.training.forced import Packed, can_pack, exit_states_from, source_of
from test_branch_families import with_layers

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@torch.no_grad()
def reference(model, case, targets):
    """The model's own pass: what its norm gets of each exit, the layers' states, and the encoder's output."""
    with watched_encoder(model) as found:
        inputs = {**case.inputs, "decoder_input_ids": targets, "use_cache": False, "output_hidden_states": True}
        out, expected = exit_states(model, type(model).deed_base.forward, inputs)
    return expected, out.decoder_hidden_states, found[0]


@every_case
def test_equals_the_models_own_pass(case):
    model = with_layers(case, 1)
    targets = case.targets
    expected, layers, encoded = reference(model, case, targets)
    source = source_of(model, encoded, case.inputs.get("attention_mask"))
    at = torch.arange(targets.shape[1]).expand(targets.shape)
    packed = Packed(at, torch.zeros_like(at))
    with torch.no_grad():
        got = exit_states_from(model, source, packed, {d: layers[d] for d in expected})
    assert got.keys() == expected.keys()
    for depth, states in expected.items():
        torch.testing.assert_close(got[depth], states, rtol=0, atol=1e-10)


@every_case
def test_several_sequences_in_a_row(case):
    """Each as if it were alone, padding after them notwithstanding."""
    model = with_layers(case, 1)
    if not can_pack(model):
        pytest.skip("positions act through biases, so each sequence has its own row")
    first, second = case.targets, case.targets.flip(1)[:, :3]
    a, b = reference(model, case, first), reference(model, case, second)
    source = source_of(model, a[2], case.inputs.get("attention_mask"))
    rows = len(first)
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 0]).expand(rows, -1)
    packed = Packed(positions, torch.tensor([0] * 5 + [1] * 3 + [-1]).expand(rows, -1))
    states = {d: torch.cat([a[1][d], b[1][d], torch.zeros_like(a[1][d][:, :1])], 1) for d in a[0]}
    with torch.no_grad():
        got = exit_states_from(model, source, packed, states)
    for depth in a[0]:
        torch.testing.assert_close(got[depth][:, :5], a[0][depth], rtol=0, atol=1e-10)
        torch.testing.assert_close(got[depth][:, 5:8], b[0][depth], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["WhisperForConditionalGeneration", "T5ForConditionalGeneration"])
def test_gradients_reach_the_exits_layers_alone(name):
    case = CASES[name]
    model = with_layers(case, 1)
    model.freeze_backbone()
    expected, layers, encoded = reference(model, case, case.targets)
    at = torch.arange(case.targets.shape[1]).expand(case.targets.shape)
    source = source_of(model, encoded, case.inputs.get("attention_mask"))
    got = exit_states_from(model, source, Packed(at, torch.zeros_like(at)), {1: layers[1]})
    assert got.keys() == {1} and expected.keys() != {1}
    model.deed_family.final_norm(model, got[1]).sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient and all(name.startswith("deed_exits.1.") for name in with_gradient)
