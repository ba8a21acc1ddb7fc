"""Decoders of BART's build: each class's tokens, depths and logits are those of the cache-free reference, by parts and by
the layers' own `forward`, with rows that have lengths of their own; float64, ragged sources, unequal depths."""

from dataclasses import replace

import pytest
import torch

from deed import DeedConfigError, FixedSchedule, StaircaseCache, get_deed_model, register_family
from deed.engine.step import decode_step
from deed.families.bart_like import BUILDS, DECODERS, BartLikeFamily
from oracle import Oracle, expected_exit_layers
from tiny import EOS, LAYERS, TINY, VOCAB

COMPOSITE = [name for name in TINY if name.startswith("VisionEncoderDecoderModel")]
WHOLE = [
    name for name in TINY if name in {*BUILDS, "MvpForConditionalGeneration", "Speech2TextForConditionalGeneration"}
]
GENERATING = [name for name in WHOLE if name != "WhisperForConditionalGeneration"]  # which has a generate() of its own
MODES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "sample": {"do_sample": True, "temperature": 1.5},
}


class InsideFamily(BartLikeFamily):
    """The decoder of a composite model, whose decoder has attention of its own width to the encoder's states."""

    def source(self, model, encoder_outputs, mask):
        states = encoder_outputs[0]
        return (model.enc_to_dec_proj(states) if hasattr(model, "enc_to_dec_proj") else states), None


def random_exits(model, seed=1):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.fixture
def made(own_families, monkeypatch):
    """Deed models by name."""

    def make(name, by="parts"):
        model = TINY[name].build()
        if name in COMPOSITE:
            build = DECODERS[type(model.decoder).__name__].within("decoder")
            register_family("VisionEncoderDecoderModel")(InsideFamily(build))
        model = random_exits(get_deed_model(model))
        if by == "layers":
            monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
        else:
            assert model.deed_family.parts(model) is not None, "the lean path"
        return model

    return make


@pytest.mark.parametrize("by", ["parts", "layers"])
@pytest.mark.parametrize("name", [*WHOLE, *COMPOSITE])
@torch.no_grad()
def test_logits_are_those_of_exits_without_a_cache(name, by, made):
    """Rows wait, catch up, and have lengths of their own; every token's logits equal `exit_logits` on the row alone."""
    model, rows = made(name, by), 3
    source = TINY[name].inputs(rows)
    encoder_mask = source.get("attention_mask")
    encoded = (
        model.get_encoder()(**source) if "pixel_values" not in source or name in COMPOSITE else merged(model, source)
    )
    cache = StaircaseCache(LAYERS, FixedSchedule([[1, 3, 2, 4], [4, 1, 2], [2, 2, 3, 1, 4]]), audit=True)
    cache.begin(model, encoded, encoder_mask=encoder_mask)
    generator = torch.Generator().manual_seed(5)
    ids = [torch.zeros(1, 0, dtype=torch.long) for _ in range(rows)]
    depths = set()
    for step in range(7):
        active = [r for r in range(rows) if not step or (step + 2 * r) % 4 != 1]
        new = torch.randint(3, VOCAB, (len(active), 2 if step == 0 else 1 + step % 2), generator=generator)
        logits = decode_step(cache, new, rows=active)
        for i, r in enumerate(active):
            ids[r] = torch.cat([ids[r], new[i : i + 1]], 1)
            depth = cache.state.depths[-1][r]
            depths.add(depth)
            one = {"encoder_outputs": type(encoded)(encoded[0][r : r + 1])}
            if encoder_mask is not None:
                one["attention_mask"] = encoder_mask[r : r + 1]
            expected = model.exit_logits(**one, decoder_input_ids=ids[r])[depth - 1, 0, -1]
            torch.testing.assert_close(logits[i, 0], expected, rtol=0, atol=1e-9)
    assert cache.stairs.ragged and depths == {1, 2, 3, 4} and int(cache.stairs.writes.max()) == 1


WRONG = {
    "MBartForConditionalGeneration": {"post_norm": True, "final": None, "embed_norm": "tokens"},
    "MarianMTModel": {"scaled": False, "bias": False},
    "BlenderbotSmallForConditionalGeneration": {"scaled": True, "embed_norm": "sum"},
    "PegasusXForConditionalGeneration": {"final": None},
    "Speech2TextForConditionalGeneration": {"sees_encoder_mask": False, "scaled": False},
    "WhisperForConditionalGeneration": {"scaled": True},
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in WRONG for field in WRONG[name]])
def test_a_wrong_line_is_noticed(name, field, made):
    def wrong(name, by):
        model = made(name, by)
        family = model.deed_family
        kind = BartLikeFamily if field == "sees_encoder_mask" else type(family)  # whose source asks the build
        model.deed_family = kind(replace(family.build, **{field: WRONG[name][field]}))
        return model

    with pytest.raises(AssertionError, match="not close"):
        test_logits_are_those_of_exits_without_a_cache(name, "parts", wrong)


def merged(model, source):
    """A text encoder's output where a picture's features have replaced their tokens."""
    embeds = model.get_input_embeddings()(source["input_ids"])
    features = model.get_image_features(source["pixel_values"]).pooler_output
    at = model.get_placeholder_mask(source["input_ids"], inputs_embeds=embeds, image_features=features)
    embeds = embeds.masked_scatter(at, features)
    return model.get_encoder()(inputs_embeds=embeds, attention_mask=source["attention_mask"])


def thresholds(model, source, name):
    """Two that rows leave by at different depths, one for all exits and one for each: quantiles of their confidence."""
    ids = torch.randint(3, VOCAB, (len(next(iter(source.values()))), 8), generator=torch.Generator().manual_seed(2))
    surest = model.exit_logits(**source, decoder_input_ids=ids)[:-1].softmax(-1).amax(-1)
    return [float(surest.quantile(0.75)), surest.flatten(1).quantile(0.6, dim=1).tolist()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GENERATING)
@torch.no_grad()
def test_generate_equals_the_reference(name, mode, made):
    model, source = made(name), TINY[name].inputs(4)
    options = {"max_new_tokens": 8, "min_new_tokens": 6, **TINY[name].options, **MODES[mode]}
    found = set()
    for threshold in thresholds(model, source, name):
        torch.manual_seed(0)
        expected, trace = Oracle(model, threshold=threshold).generate(source, **options)
        torch.manual_seed(0)
        got = model.generate(**source, exit_threshold=threshold, return_dict_in_generate=True, **options)
        assert torch.equal(got.sequences, expected.sequences)
        assert torch.equal(got.exit_layers, expected_exit_layers(expected, trace, 1, EOS))
        found |= set(got.exit_layers.flatten().tolist())
    assert len(found - {0}) >= 3, "rows leave at different depths"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GENERATING)
@torch.no_grad()
def test_a_threshold_of_two_is_the_plain_model(name, mode, made):
    source, options = TINY[name].inputs(4), {"max_new_tokens": 8, **TINY[name].options, **MODES[mode]}
    plain, model = TINY[name].build(), made(name)
    torch.manual_seed(0)
    expected = plain.generate(**source, **options)
    torch.manual_seed(0)
    assert torch.equal(model.generate(**source, exit_threshold=2.0, **options), expected)


@pytest.mark.parametrize("name", GENERATING)
@torch.no_grad()
def test_a_row_alone_is_as_in_its_batch(name, made):
    model, source = made(name), TINY[name].inputs(4)
    options = {"max_new_tokens": 8, "return_dict_in_generate": True, **TINY[name].options}
    threshold = thresholds(model, source, name)[0]
    together = model.generate(**source, exit_threshold=threshold, **options)
    for r in range(4):
        one = model.generate(**{k: v[r : r + 1] for k, v in source.items()}, exit_threshold=threshold, **options)
        length = one.exit_layers.shape[1]
        assert torch.equal(one.exit_layers[0], together.exit_layers[r, :length])
        assert torch.equal(one.sequences[0], together.sequences[r, : 1 + length])


@pytest.mark.parametrize("name", GENERATING)
def test_labels_give_a_loss_at_every_exit(name, made):
    """Also where the class shifts labels itself, for want of `prepare_decoder_input_ids_from_labels`."""
    model, source = made(name), TINY[name].inputs(3)
    labels = torch.randint(3, VOCAB, (3, 5), generator=torch.Generator().manual_seed(4))
    labels[1, 3:] = -100
    loss = model(**source, labels=labels)
    base = model.deed_base.forward(model, **source, labels=labels)
    assert loss.exit_losses.shape == (LAYERS,) and len(set(loss.exit_losses.tolist())) == LAYERS
    torch.testing.assert_close(loss.exit_losses[-1].double(), base.loss.double(), rtol=0, atol=1e-6)


def test_mvp_with_prompts_is_refused(own_families):
    model = TINY["MvpForConditionalGeneration"].build()
    model.config.use_prompt = True
    with pytest.raises(DeedConfigError, match="use_prompt=False"):
        get_deed_model(model)
