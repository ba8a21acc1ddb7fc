"""The loop of ours beside Transformers' own, and layers run by their parts beside layers run by themselves."""

import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

import deed.modeling.generation as generation_module
from conftest import batch, deed_model
from deed import FixedSchedule
from test_decode import MODES, Ban, Collect, Odd, compare

LOOP_MODES = {
    **{name: MODES[name] for name in ("greedy", "sampling", "sampling_return_3", "processors")},
    "own_processor": {"logits_processor": LogitsProcessorList([Ban()])},
    "own_criterion": {"stopping_criteria": StoppingCriteriaList([Odd()]), "min_new_tokens": 9},
    "max_time": {"max_time": 1e4},
    "no_end_token": {"eos_token_id": None},
    "two_end_tokens": {"eos_token_id": [2, 7]},
    "prompt": {"decoder_input_ids": torch.tensor([[2, 9, 8]] * 4)},
    "padded_prompt": {
        "decoder_input_ids": torch.tensor([[1, 2, 8]] * 3 + [[2, 9, 8]]),
        "decoder_attention_mask": torch.tensor([[0, 1, 1]] * 3 + [[1, 1, 1]]),
    },
}


def both(model, monkeypatch, **options):
    outs = []
    for directly in (True, False):
        monkeypatch.setattr(generation_module.EarlyExitGeneration, "_steps_directly", lambda self, d=directly: d)
        torch.manual_seed(5)
        outs.append(model.generate(**batch(), max_new_tokens=9, exit_threshold=0.6, **options))
    return outs


@pytest.mark.parametrize("mode", LOOP_MODES)
def test_same_outputs_as_transformers_loop(kind, mode, monkeypatch):
    wants = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    ours, theirs = both(deed_model(kind), monkeypatch, **LOOP_MODES[mode], **wants)
    assert set(ours.keys()) == set(theirs.keys()) and type(ours) is type(theirs)
    assert torch.equal(ours.sequences, theirs.sequences) and torch.equal(ours.exit_layers, theirs.exit_layers)
    for name in ("scores", "logits"):
        assert len(ours[name]) == len(theirs[name]) == ours.exit_layers.shape[1]
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    assert ours.past_key_values.stats() == theirs.past_key_values.stats()
    plain = both(deed_model(kind), monkeypatch, **LOOP_MODES[mode])
    assert all(isinstance(out, torch.Tensor) and torch.equal(out, ours.sequences) for out in plain)


def test_scores_are_kept_only_where_asked(kind, monkeypatch):
    ours, theirs = both(deed_model(kind), monkeypatch, return_dict_in_generate=True)
    assert ours.scores is theirs.scores is None and ours.logits is theirs.logits is None


def test_streams_the_same(kind, monkeypatch):
    streamers = []
    for directly in (True, False):
        monkeypatch.setattr(generation_module.EarlyExitGeneration, "_steps_directly", lambda self, d=directly: d)
        streamers.append(Collect())
        inputs = {k: v[:1] for k, v in batch().items()}
        deed_model(kind).generate(**inputs, max_new_tokens=9, exit_threshold=0.5, streamer=streamers[-1])
    assert streamers[0].tokens == streamers[1].tokens and streamers[0].ended


def test_a_continued_cache(kind, monkeypatch):
    """A second `generate()` on the cache of the first goes on where it ended."""
    found = []
    for directly in (True, False):
        monkeypatch.setattr(generation_module.EarlyExitGeneration, "_steps_directly", lambda self, d=directly: d)
        model = deed_model(kind)
        options = {"min_new_tokens": 4, "return_dict_in_generate": True, "exit_threshold": 0.6}
        first = model.generate(**batch(), max_new_tokens=4, **options)
        again = model.generate(
            **batch(),
            decoder_input_ids=first.sequences,
            decoder_attention_mask=torch.ones_like(first.sequences),
            past_key_values=first.past_key_values,
            max_new_tokens=4,
            **options,
        )
        found.append(again)
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert torch.equal(found[0].exit_layers, found[1].exit_layers)


def test_who_changes_a_step_gets_transformers_loop(kind):
    model = deed_model(kind)
    assert model._steps_directly()
    handle = model.register_forward_hook(lambda *_: None)
    assert not model._steps_directly()
    handle.remove()

    class Mine(type(model)):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            seen.append(1)
            return super().prepare_inputs_for_generation(*args, **kwargs)

    seen = []
    model.__class__ = Mine
    model.generate(**batch(), max_new_tokens=5, min_new_tokens=5)
    assert len(seen) == 5


@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam"])
def test_layers_by_themselves(kind, mode, monkeypatch):
    """A family that cannot name its layers' parts has them run by their own forward."""
    model = deed_model(kind)
    monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    padding = 0
    for threshold in (0.6, 0.75, 0.85):
        got = compare(model, batch(), threshold, min_new_tokens=9, **MODES[mode])
        padding += got.past_key_values.stats()["padding_cells"]
    assert padding > 0
    start = model.config.decoder_start_token_id
    prefix = torch.tensor([[1, start, 7], [start, 11, 12], [1, start, 6], [1, 1, start]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]])
    compare(model, batch(), 0.5, prompt=3, decoder_input_ids=prefix, decoder_attention_mask=mask)


def test_what_makes_a_layer_run_by_itself(kind):
    model = deed_model(kind)
    family, layer = model.deed_family, model.deed_family.layers(model)[2]
    assert len(family.parts(model)) == 5
    handle = layer.register_forward_hook(lambda *_: None)
    assert family.parts(model) is None
    handle.remove()
    assert family.parts(model) is not None
    layer.train()
    assert family.parts(model) is None, "dropout is the layer's own business"
    layer.eval()
    layer.forward = layer.forward
    assert family.parts(model) is None
    del layer.forward

    class Other(type(layer)):
        pass

    layer.__class__ = Other
    assert family.parts(model) is None


def test_hooks_that_transformers_leaves_behind_change_nothing(kind):
    """Whoever trained, calibrated or asked for `exit_logits` would decode slowly from then on."""
    model = deed_model(kind)
    model.exit_logits(**batch(), decoder_input_ids=torch.ones(4, 2, dtype=torch.long))
    layer = model.deed_family.layers(model)[0]
    assert layer._forward_hooks, "Transformers no longer leaves hooks behind: drop RECORDER"
    assert model.deed_family.parts(model) is not None


def test_a_hook_on_a_leaf_is_heard(kind):
    model, heard = deed_model(kind), []
    linear = next(m for m in model.deed_family.layers(model)[0].modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda *_: heard.append(1))
    assert model.deed_family.parts(model) is not None
    model.generate(**batch(), max_new_tokens=3, min_new_tokens=3, exit_threshold=0.0)
    assert len(heard) == 3


def test_parts_equal_layers_in_float32(kind, monkeypatch):
    """Where norms and linears are called as bare functions."""
    model, found = deed_model(kind, dtype=torch.float32), []
    for by_parts in (True, False):
        if not by_parts:
            monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True}
        found.append(model.generate(**batch(), exit_policy=FixedSchedule([2, 1, 5, 3]), **options))
    assert torch.equal(found[0].sequences, found[1].sequences)
    for a, b in zip(found[0].logits, found[1].logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_half_precision(kind):
    """bfloat16 runs by parts, float16 by the layers where they clamp; both stay near float32."""
    inputs = batch()
    for dtype, tolerance in ((torch.bfloat16, 0.3), (torch.float16, 0.05)):
        exact, model = deed_model(kind, dtype=torch.float32), deed_model(kind, dtype=dtype)
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
        a, b = (m.generate(**inputs, exit_threshold=2.0, **options) for m in (exact, model))
        first = a.logits[0]
        assert (first - b.logits[0]).abs().max() < tolerance * first.abs().max()


def test_head_parts_say_what_the_head_computes(kind):
    model = deed_model(kind)
    features = torch.randn(3, 32, dtype=torch.float64)
    weight, bias, scale = model.deed_family.head_parts(model)
    expected = (features * scale) @ weight.T + (0 if bias is None else bias)
    torch.testing.assert_close(model.deed_family.head(model, features), expected, rtol=0, atol=1e-10)
