"""Adaptation modules and the shared head."""

import pytest
import torch

from conftest import KINDS, batch, deed_model, plain_model
from deed import DeedConfig, get_deed_model

IDS = torch.tensor([[0, 5, 6, 7], [0, 9, 8, 30], [0, 3, 3, 3], [0, 12, 13, 14]])


@pytest.mark.parametrize("adapter", ["residual_linear", "linear", "bottleneck", "none"])
def test_fresh_exits_are_the_base_models_hidden_states_through_its_own_norm_and_head(kind, adapter):
    base = plain_model(kind)
    out = base(**batch(), decoder_input_ids=IDS, output_hidden_states=True, use_cache=False)
    expected = []
    for hidden in out.decoder_hidden_states[1:-1]:
        if kind == "bart":
            expected.append(base.lm_head(hidden) + base.final_logits_bias)
        else:
            normed = base.decoder.final_layer_norm(hidden)
            expected.append(base.lm_head(normed * 32**-0.5 if kind == "t5_tied" else normed))
    expected.append(out.logits)
    z = get_deed_model(plain_model(kind), DeedConfig(adapter=adapter)).exit_logits(**batch(), decoder_input_ids=IDS)
    assert z.shape == (5, 4, 4, 40)
    torch.testing.assert_close(z, torch.stack(expected), rtol=0, atol=1e-12)


def test_an_adapter_feeds_the_head_only(kind):
    model = deed_model(kind)
    before = model.exit_logits(**batch(), decoder_input_ids=IDS)
    with torch.no_grad():
        model.deed_exits["2"].linear.weight.add_(1.0)
    after = model.exit_logits(**batch(), decoder_input_ids=IDS)
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False, False, False]


def test_one_head_and_one_small_module_per_exit_but_the_last():
    for kind in KINDS:
        model = get_deed_model(plain_model(kind), DeedConfig(exit_layers=[1, 4]))
        assert set(model.deed_exits) == {"1", "4"}
        added = sum(p.numel() for p in model.deed_exits.parameters())
        assert added == 2 * (32 * 32 + 32)
    assert not list(get_deed_model(plain_model("bart"), DeedConfig(adapter="none")).deed_exits.parameters())
