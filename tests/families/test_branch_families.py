"""Exits with a decoder layer of their own (`adapter="layer"`) in every class, float64, ragged sources."""

import copy

import pytest
import torch
from cases import CASES, ROWS
from test_matrix import LENGTH, MODES, agrees, generated
from torch import nn

from deed import DeedConfig, FixedSchedule, get_deed_model
from oracle import Oracle

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def with_layers(case, seed=None):
    """The case's model with exits' own layers, fresh or (`seed`) changed at random, no two alike."""
    model = get_deed_model(case.plain(), DeedConfig(adapter="layer"))
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in model.deed_exits.parameters():
                p.add_(torch.randn_like(p) * 0.05)
    return model


def skip(layer):
    """Have a layer hand on what it gets; whatever else it returns (T5's bias) is as it was."""
    run = layer.forward

    def forward(hidden, *args, **kwargs):
        output = run(hidden, *args, **kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layer.forward = forward


@every_case
@torch.no_grad()
def test_a_fresh_exit_is_the_model_without_the_layers_between(case):
    exits = with_layers(case).exit_logits(**case.inputs, decoder_input_ids=case.targets)
    count, plain = len(exits), copy.deepcopy(case.shared_plain)
    layers = next(m for m in plain.get_decoder().modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    for depth in reversed(range(1, count)):
        if depth < count - 1:
            skip(layers[depth])
        expected = plain(**case.inputs, decoder_input_ids=case.targets, use_cache=False).logits
        torch.testing.assert_close(exits[depth - 1], expected, rtol=0, atol=1e-9)


@every_case
@pytest.mark.parametrize("by", ["packed", "forward"])
@torch.no_grad()
def test_tokens_depths_and_logits_on_schedules(case, by, monkeypatch):
    family = type(case.shared.deed_family)
    if by == "packed":
        monkeypatch.setattr("deed.engine.state.SPAN", 0.0)
    elif case.shared.deed_family.parts(case.shared) is None:
        pytest.skip("its layers run by their own forward in any case")
    else:
        monkeypatch.setattr(family, "parts", lambda self, model: None)
    mode = MODES["greedy" if by == "packed" else "beam"]
    model, rows = with_layers(case, 1), ROWS * mode.get("num_beams", 1)
    last = len(model.deed_exits) + 1
    table = [[1 + (r * 2 + t * 3 + r * t) % last for t in range(LENGTH)] for r in range(rows)]
    reference = Oracle(model, depths=lambda step, n: [table[r][step % LENGTH] for r in range(n)])
    assert len(agrees(model, case, reference, exit_policy=FixedSchedule(table), **mode)) >= 2


@every_case
@torch.no_grad()
def test_exact_is_full_depth(case, monkeypatch):
    monkeypatch.setattr("deed.engine.exact_tuning.Tuner.warm", False)
    model = with_layers(case, 1)
    expected = generated(model, case, exit_threshold=2.0)
    got = generated(model, case, exit_threshold=0.3, exact=True)
    assert torch.equal(got.sequences, expected.sequences)
