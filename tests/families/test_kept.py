"""What `generate()` finds out about a model's modules once is found out anew as soon as something about them has changed."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn

import deed
from conftest import batch, deed_model
from deed.families import kept
from oracle import max_prob
from test_decode import compare
from tiny import TINY

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True}


def logits_of(model):
    return torch.stack(model.generate(**batch(), exit_threshold=0.3, **OPTIONS, return_dict_in_generate=True).logits)


def times_found(model, monkeypatch):
    """A list that grows whenever a decoder's parts are found out, and one for encoder layers."""
    found, family = [], type(model.deed_family)
    real = family.parts
    monkeypatch.setattr(family, "parts", lambda self, model: (found.append(1), real(self, model))[1])
    return found


def change_weight(model):
    with torch.no_grad():
        next(p for n, p in model.deed_family.layers(model).named_parameters() if p.ndim == 2).mul_(1.5)


def replace_weight(model):
    for module in model.deed_family.layers(model).modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.detach() * 1.5)


def replace_linear(model):
    for module in [*model.deed_family.layers(model).modules()]:
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                doubled = copy.deepcopy(child)
                doubled.weight.data.mul_(1.5)
                setattr(module, name, doubled)
                return


def hook(model):
    linear = next(m for m in model.deed_family.layers(model).modules() if isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda module, args, out: out * 1.5)


def other_forward(model):
    linear = next(m for m in model.deed_family.layers(model).modules() if isinstance(m, nn.Linear))
    linear.forward = lambda x: nn.functional.linear(x, linear.weight) * 1.5


def scaling(model):
    for module in model.deed_family.layers(model).modules():
        if hasattr(module, "scaling"):
            module.scaling = 0.5 * module.scaling


def encoder_linear(model):
    linear = next(m for m in model.get_encoder().modules() if isinstance(m, nn.Linear))
    linear.weight = nn.Parameter(linear.weight.detach() * 1.5)


CHANGES = [change_weight, replace_weight, replace_linear, hook, other_forward, scaling, encoder_linear]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_change_shows(change, kind):
    model = deed_model(kind, dtype=torch.float32)
    before = logits_of(model)
    assert torch.equal(logits_of(model), before)
    change(model)
    kept_one = logits_of(model)
    kept._kept.clear()
    assert torch.equal(kept_one, logits_of(model)) and not torch.allclose(kept_one, before)


def test_found_once_and_anew_where_settings_change(monkeypatch):
    model = deed_model("t5", dtype=torch.float32)
    found = times_found(model, monkeypatch)
    for _ in range(3):
        logits_of(model)
    assert len(found) == 1
    monkeypatch.setenv("DEED_KERNELS", "plain")
    logits_of(model)
    assert len(found) == 2
    hook(model)  # then nothing is kept
    for _ in range(2):
        logits_of(model)
    assert len(found) == 4


def test_copies_and_int8_are_their_own(kind, monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "fixed")
    model = deed_model(kind, dtype=torch.float32)
    before = logits_of(model)
    twin = copy.deepcopy(model)
    change_weight(twin)
    assert not torch.allclose(logits_of(twin), before) and torch.equal(logits_of(model), before)
    deed.quantize(model, min_weights=0)
    compare(model, batch(), 0.5, max_prob, min_new_tokens=4)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_model_that_generated_is_freed(name):
    model = deed.get_deed_model(TINY[name].build())
    options = {"max_new_tokens": 2, "do_sample": False, "num_beams": 1, **TINY[name].options}
    with torch.no_grad():
        model.generate(**TINY[name].inputs(1), **options)
    roots = [weakref.ref(model), weakref.ref(model.deed_family.decoder(model))]
    del model
    gc.collect()
    assert [root() for root in roots] == [None, None]


def test_two_threads_on_one_model(kind):
    model = deed_model(kind, dtype=torch.float32)
    wanted = [model.generate(**batch(seed=s), exit_threshold=0.3, **OPTIONS) for s in range(2)]
    kept._kept.clear()
    found = {}

    def work(seed):
        found[seed] = [model.generate(**batch(seed=seed), exit_threshold=0.3, **OPTIONS) for _ in range(6)]

    threads = [threading.Thread(target=work, args=(s,)) for s in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        assert all(torch.equal(tokens, wanted[seed]) for tokens in found[seed])
