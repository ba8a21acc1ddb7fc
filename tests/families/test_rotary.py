"""Rotary decoders and the speech models, beside what the matrix over all classes shows: rows with lengths of their own, by
parts and by the layers' own `forward`, windows, caps, one softmax over text and source."""

import copy

import pytest
import torch

import stepping
import tiny_rotary  # noqa: F401  (its classes)
from deed import DeedConfigError, get_deed_model, unwrap
from recording import DEVICE, using
from tiny import LAYERS, TINY
from tiny_rotary import moonshine, t5gemma

SPEECH = [n for n in TINY if n.startswith(("Moonshine", "Cohere", "Canary"))]
GEMMA = [n for n in TINY if n.startswith("T5Gemma")]
PROMPT = torch.tensor([[0, 5, 9, 4]])


@pytest.mark.parametrize("way", stepping.WAYS)
@pytest.mark.parametrize("name", SPEECH)
def test_logits_of_speech_models_are_those_of_exits_without_a_cache(name, way, monkeypatch):
    model = stepping.made(name, way, monkeypatch)
    assert (model.deed_family.parts(model) is None) == (way == "layers")
    stepping.check(model, TINY[name].inputs(3), atol=1e-9)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", GEMMA)
def test_logits_of_t5gemma_are_those_of_exits_without_a_cache(name, attention, monkeypatch):
    """Longer than the windows. Its norms, and in eager attention its softmax, compute in float32."""
    model = stepping.made(name, "layers", monkeypatch)
    if attention == "sdpa" and model.deed_family.attention(model) == "eager":
        pytest.skip("T5Gemma caps its scores, which sdpa cannot")
    if attention == "eager":
        model.get_decoder().config._attn_implementation = attention
    stepping.check(model, TINY[name].inputs(3), atol=1e-5)


@torch.no_grad()
def test_a_source_without_padding_needs_no_mask(monkeypatch):
    """T5Gemma 2 joins two masks, either of which may be absent."""
    name = "T5Gemma2ForConditionalGeneration"
    model = stepping.made(name, "layers", monkeypatch)
    source = {k: v[:1] for k, v in TINY[name].inputs(1).items()}
    assert bool(source["attention_mask"].all())
    plain = model.generate(**source, max_new_tokens=9, exit_threshold=2.0)
    for cut in (1, 4):  # one query without a mask, a prompt with a causal one
        again = model.generate(**source, decoder_input_ids=plain[:, :cut], max_new_tokens=10 - cut, exit_threshold=2.0)
        assert torch.equal(again, plain)


@pytest.mark.parametrize("name", GEMMA)
def test_windows_are_of_the_layers_that_the_configuration_names(name):
    model = get_deed_model(TINY[name].build())
    assert [model.deed_family.window(model, layer) for layer in range(LAYERS)] == [3, None, 3, None]


@torch.no_grad()
def test_capped_logits_have_no_cheap_copy():
    model = get_deed_model(TINY["T5GemmaForConditionalGeneration"].build())
    source = TINY["T5GemmaForConditionalGeneration"].inputs(2)
    with pytest.raises(DeedConfigError, match="final_logit_softcapping"):
        model.generate(**source, exit_check={"name": "screen", "rank": 4}, max_new_tokens=3)
    model = get_deed_model(
        t5gemma(final_logit_softcapping=None, sliding_window=None, layer_types=["full_attention"] * 4)
    )
    weight, bias, factor = model.deed_family.head_parts(model)
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(hidden @ weight.T, model.deed_family.head(model, hidden))
    assert bias is None and factor == 1.0 and model.deed_family.window(model, 0) is None


@torch.no_grad()
def test_angles_that_depend_on_the_length_are_left_to_the_layers():
    def scaled(kind):
        config = moonshine().config
        config.rope_parameters = {"rope_theta": 1e4, "partial_rotary_factor": 0.9, "rope_type": kind, "factor": 2.0}
        return get_deed_model(type(moonshine())(config).eval())

    dynamic, linear = scaled("dynamic"), scaled("linear")
    assert dynamic.deed_family.parts(dynamic) is None
    assert linear.deed_family.parts(linear) is not None
    source = {k: v.float() for k, v in TINY["MoonshineForConditionalGeneration"].inputs(2).items()}
    for model in (dynamic, linear):
        plain = unwrap(copy.deepcopy(model)).generate(**source, max_new_tokens=6)
        assert torch.equal(model.generate(**source, exit_threshold=2.0, max_new_tokens=6), plain)


@torch.no_grad()
def test_moonshine_streaming_generates_twice_the_same_from_one_encoding():
    """The class itself adds positions to the encoder's states in place at every call; here they stay as they are."""
    name = "MoonshineStreamingForConditionalGeneration"
    model, source = get_deed_model(TINY[name].build()), TINY[name].inputs(2)
    outputs = model.get_encoder()(**source)
    states = outputs[0].clone()
    first, second = (
        model.generate(encoder_outputs=outputs, decoder_input_ids=PROMPT.expand(2, -1), max_new_tokens=5)
        for _ in range(2)
    )
    assert torch.equal(outputs[0], states) and torch.equal(first, second)


@torch.no_grad()
def test_recorded_layers_turn_by_the_positions_of_each_step(tape):
    """As CUDA graphs run them."""
    tiny = TINY["MoonshineForConditionalGeneration"]
    model = get_deed_model(tiny.build()).to(DEVICE)
    source = {k: v.to(DEVICE) for k, v in tiny.inputs(3).items()}
    thresholds = (0.2, 0.5, 2.0)
    expected = [model.generate(**source, exit_threshold=t, max_new_tokens=9) for t in thresholds]
    using(model)
    for _ in range(2):
        for threshold, one in zip(thresholds, expected, strict=True):
            assert torch.equal(model.generate(**source, exit_threshold=threshold, max_new_tokens=9), one)
    assert tape.run > tape.made > 0
