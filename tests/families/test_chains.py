"""Layers whose stretches between attentions are one native call each, beside the same layers module by module."""

import copy
import gc
import weakref

import pytest
import torch

import deed
from conftest import batch, deed_model
from deed import FixedSchedule
from deed.families import chains
from deed.kernels.native.runs import available
from oracle import max_prob
from test_decode import compare

pytestmark = pytest.mark.skipif(not available(), reason="the native library is not built or off")


def parts_of(model):
    return model.deed_family.parts(model)


def logits_of(model):
    schedule = FixedSchedule([[1, 3, 5, 2], [2, 5, 5, 1], [5, 1, 2, 4], [4, 4, 1, 1]])
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "output_logits": True, "return_dict_in_generate": True}
    torch.manual_seed(0)
    return torch.stack(model.generate(**batch(), exit_policy=schedule, do_sample=False, **options).logits)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_as_module_by_module(kind, precision, packing, monkeypatch):
    model = deed_model(kind, dtype=torch.float32)
    if precision == "int8":
        monkeypatch.setenv("DEED_KERNELS", "fixed")
        model = deed.quantize(model, min_weights=0)
        assert model.deed_quantized["kernels"] == ["Native"]
    assert all(None not in part.chains for part in parts_of(model))
    by_chains = logits_of(model)
    monkeypatch.setattr(chains, "_native", lambda links: None)
    chains._kept.clear()
    assert all(part.chains is None for part in parts_of(model))
    by_modules = logits_of(model)
    error = (by_chains - by_modules).abs()
    if precision == "fp32":
        assert error.max() < 2e-4
    else:  # a last digit may move an activation to the next step
        assert error.median() < 1e-4 * by_modules.std() and error.max() < 0.2 * by_modules.std()


def test_equals_the_oracle(kind, packing):
    """In float32: every exit's logits are computed by the model's own modules there."""
    model = deed_model(kind, dtype=torch.float32)
    assert all(None not in part.chains for part in parts_of(model))
    for threshold in (0.5, 0.8, 2.0):
        compare(model, batch(), threshold, max_prob, min_new_tokens=6)


def test_made_once_per_layer_and_anew_where_something_changed(kind):
    model = deed_model(kind, dtype=torch.float32)
    first = [part.chains for part in parts_of(model)]
    assert [part.chains for part in parts_of(model)] == first
    layers = model.deed_family.layers(model)
    linear = next(m for m in layers[0].modules() if type(m) is torch.nn.Linear)
    handle = linear.register_forward_hook(lambda *args: None)
    assert parts_of(model)[0].chains.before is None  # a hook may do anything: its module is called
    assert parts_of(model)[1].chains is first[1]
    handle.remove()
    assert None not in parts_of(model)[0].chains
    before = logits_of(model)
    with torch.no_grad():
        linear.weight.mul_(1.5)
    changed = logits_of(model)
    assert not torch.allclose(before, changed)
    with torch.no_grad():
        linear.weight.copy_(linear.weight.clone().div_(1.5))
    torch.testing.assert_close(logits_of(model), before, atol=1e-4, rtol=1e-4)
    assert all(part.chains is None for part in parts_of(model.double()))


def test_copies_and_freed_models(kind):
    model = deed_model(kind, dtype=torch.float32)
    logits = logits_of(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin), logits)
    assert parts_of(twin)[0].chains is not parts_of(model)[0].chains
    layer = weakref.ref(model.deed_family.layers(model)[0])
    del model
    gc.collect()
    assert layer() is None
