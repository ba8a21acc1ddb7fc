"""Decoders of T5's build, beside what the matrix over all classes shows: rows with lengths of their own, by parts and by the
blocks' own `forward`, and what single classes do otherwise than T5."""

import pytest
import torch

import stepping
import tiny_t5  # noqa: F401  (its classes)
from deed import get_deed_model
from deed.families.t5 import Pix2StructFamily
from tiny import TINY, VOCAB

NAMES = [n for n in TINY if n.split("For")[0] in ("T5", "MT5", "UMT5", "LongT5", "Udop", "Pix2Struct", "Pop2Piano")]


@pytest.mark.parametrize("way", stepping.WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_exits_without_a_cache(name, way, monkeypatch):
    model = stepping.made(name, way, monkeypatch)
    assert (model.deed_family.parts(model) is None) == (way == "layers")
    stepping.check(model, TINY[name].inputs(3))


@torch.no_grad()
def test_every_layer_of_umt5_has_a_bias_of_its_own():
    model = get_deed_model(TINY["UMT5ForConditionalGeneration"].build())
    tables = [model.deed_family.position_bias(model, 2, 6, layer) for layer in range(4)]
    assert {t.shape for t in tables} == {(1, 4, 4, 6)}
    assert not torch.allclose(tables[0], tables[1])


@torch.no_grad()
def test_udop_reads_the_patches_that_its_encoder_appends():
    model, source = (
        get_deed_model(TINY["UdopForConditionalGeneration"].build()),
        TINY["UdopForConditionalGeneration"].inputs(3),
    )
    outputs = stepping.encoded(model, source)
    states, mask = model.deed_family.source(model, outputs, source["attention_mask"])
    text = source["attention_mask"].shape[1]
    assert states.shape[:2] == mask.shape and torch.equal(mask[:, :text], source["attention_mask"])
    assert mask[:, text:].sum(1).tolist() == [1, 3, 2], "patches in which no word lies, padded"


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_head_is_the_models_own(name):
    """Also as bare functions and as numbers; scaled in the tied classes alone."""
    model = get_deed_model(TINY[name].build())
    family, hidden = model.deed_family, torch.randn(5, 32, dtype=torch.float64)
    norm, head = family.norm_and_head(model)
    torch.testing.assert_close(head(hidden), family.head(model, hidden), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm(hidden), family.final_norm(model, hidden), rtol=0, atol=1e-12)
    weight, bias, factor = family.head_parts(model)
    assert bias is None and weight.shape == (VOCAB, 32)
    torch.testing.assert_close((hidden * factor) @ weight.T, family.head(model, hidden), rtol=0, atol=1e-12)
    unscaled = name.startswith("Pix2Struct") or name in (
        "T5ForConditionalGeneration-MADLAD",
        "MT5ForConditionalGeneration",
    )
    assert factor == (1.0 if unscaled else 32**-0.5)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_classes_of_somebodys_own_run_by_their_forward(name):
    """In float16 the blocks clamp what overflows; another class of block may do more than its modules."""
    model = TINY[name].build()
    family = get_deed_model(model).deed_family
    assert family.parts(model.half()) is None
    model.double()
    block = family.layers(model)[1]
    block.__class__ = type("OtherBlock", (type(block),), {})
    assert family.parts(model) is None


def test_pix2struct_has_its_head_in_the_decoder_and_never_scales():
    model = get_deed_model(TINY["Pix2StructForConditionalGeneration"].build())
    assert isinstance(model.deed_family, Pix2StructFamily)
    assert model.deed_family.lm_head(model) is model.decoder.lm_head
    model.config.tie_word_embeddings = True
    assert model.deed_family.scale(model) == 1.0
