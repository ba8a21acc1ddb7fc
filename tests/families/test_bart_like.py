"""Decoders of BART's build beside the matrix: rows that have lengths of their own, by parts and by the layers' own `forward`,
give the logits of the cache-free reference; a wrong line of a build does not. float64, ragged sources, unequal depths."""

from dataclasses import replace

import pytest
import torch

from deed import DeedConfigError, FixedSchedule, StaircaseCache, get_deed_model
from deed.engine.step import decode_step
from deed.families.bart_like import BUILDS, BartLikeFamily
from tiny import LAYERS, TINY, VOCAB

COMPOSITE = [name for name in TINY if name.startswith("VisionEncoderDecoderModel")]
WHOLE = [
    name for name in TINY if name in {*BUILDS, "MvpForConditionalGeneration", "Speech2TextForConditionalGeneration"}
]


def random_exits(model, seed=1):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.fixture
def made(monkeypatch):
    """Deed models by name."""

    def make(name, by="parts"):
        model = TINY[name].build()
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


def test_mvp_with_prompts_is_refused(own_families):
    model = TINY["MvpForConditionalGeneration"].build()
    model.config.use_prompt = True
    with pytest.raises(DeedConfigError, match="use_prompt=False"):
        get_deed_model(model)
