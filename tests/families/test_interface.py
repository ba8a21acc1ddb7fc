"""What the engine asks of a family beside its layers: once per model, once per generation, and at every step."""

from dataclasses import replace

import pytest
import torch
from cases import CASES
from transformers import BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from conftest import VOCAB, batch, deed_model, plain_model
from deed import StaircaseCache, ThresholdPolicy, get_deed_model, register_family
from deed.engine.step import decode_step
from deed.families import family_of
from deed.families.bart_like import BART, BartLikeFamily
from deed.families.base import by_starts
from deed.policies.measures import MaxProb
from tiny import TINY


class OtherBart(BartForConditionalGeneration):
    """A BART whose decoder attends to half of the source."""


class OtherFamily(BartLikeFamily):
    build = replace(BART, passes=("bbox",))

    def __init__(self, chosen=False):
        super().__init__()
        self.chosen = chosen

    def resolve(self, model):
        return OtherFamily(chosen=True)

    def source(self, model, encoder_outputs, mask):
        half = encoder_outputs[0].shape[1] // 2
        return encoder_outputs[0][:, :half] * 0.5, mask[:, :half]


@pytest.fixture
def other(own_families):
    register_family("OtherBart")(OtherFamily)
    plain = plain_model("bart")
    plain.__class__ = OtherBart
    return plain


def test_a_family_resolves_itself_once_for_the_model(other):
    assert family_of(other).chosen
    assert get_deed_model(other).deed_family.chosen


@torch.no_grad()
def test_the_decoder_attends_to_what_source_answers(other):
    """As a model whose encoder had returned half of its states, halved."""
    source, reference = batch(), deed_model("bart")
    model = get_deed_model(other)
    model.deed_exits.load_state_dict(reference.deed_exits.state_dict())
    half = source["input_ids"].shape[1] // 2
    states = reference.get_encoder()(**source)[0][:, :half] * 0.5
    mask = source["attention_mask"][:, :half]
    for threshold in (0.4, 2.0):
        options = {"exit_threshold": threshold, "max_new_tokens": 8, "return_dict_in_generate": True}
        expected = reference.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask, **options
        )
        found = model.generate(**source, **options)
        assert torch.equal(found.sequences, expected.sequences)
        assert torch.equal(found.exit_layers, expected.exit_layers)


@torch.no_grad()
def test_encoder_inputs_that_a_family_does_not_name_are_refused(other, monkeypatch):
    model, source = get_deed_model(other), batch()
    step = {
        "encoder_outputs": model.get_encoder()(**source),
        "attention_mask": source["attention_mask"],
        "decoder_input_ids": torch.full((4, 1), 2),
        "bbox": torch.zeros(4, 7, 4),
    }
    policy = ThresholdPolicy(MaxProb(), 0.5)
    assert model(**step, past_key_values=StaircaseCache(5, policy)).logits.shape == (4, 1, VOCAB)
    monkeypatch.setattr(model.deed_family, "passes", ())
    with pytest.raises(ValueError, match="does not take bbox"):
        model(**step, past_key_values=StaircaseCache(5, policy))


def test_the_decoders_own_configuration_says_which_attention_runs(own_families):
    """TrOCR's decoder knows eager attention only, whatever the model around it was asked for."""
    model = TINY["VisionEncoderDecoderModel-TrOCR"].build()
    family = BartLikeFamily()
    family.build = BART.within("decoder")
    assert model.config._attn_implementation == "sdpa"
    assert family.attention(model) == model.decoder.config._attn_implementation == "eager"


@pytest.mark.parametrize("path", ["parts", "layers"])
@torch.no_grad()
def test_a_cache_that_is_continued_row_by_row(kind, path, monkeypatch):
    """`get_seq_length` and `get_mask_sizes` outside a block are those of the longest row."""
    model, source = deed_model(kind), batch(2)
    if path == "layers":
        monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    cache = StaircaseCache(5, ThresholdPolicy(MaxProb(), 0.5))
    cache.begin(model, model.get_encoder()(**source), encoder_mask=source["attention_mask"])
    decode_step(cache, torch.randint(3, VOCAB, (2, 2)))
    decode_step(cache, torch.randint(3, VOCAB, (1, 1)), rows=[1])
    assert cache.get_seq_length() == cache.self_attention_cache.get_seq_length() == 3
    assert cache.get_mask_sizes(1, 0) == (3, 0) and cache.stairs.lengths == [2, 3]


def test_modules_that_count_from_a_number_on():
    ids = torch.arange(12).view(4, 3)
    calls = []

    def place(ids, start):
        calls.append((len(ids), start))
        return (torch.arange(start, start + ids.shape[1])[:, None] * torch.ones(2)).expand(len(ids), -1, -1)

    positions = torch.tensor([[5, 6, 7], [2, 3, 4], [5, 6, 7], [0, 1, 2]])
    assert torch.equal(by_starts(place, ids, positions)[..., 0], positions.float())
    assert calls == [(1, 0), (1, 2), (2, 5)]
    assert torch.equal(by_starts(place, ids, positions[:1])[..., 0], positions[:1].expand(4, -1).float())


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("EncoderDecoderModel (BERT)", lambda inputs: {"token_type_ids": torch.zeros_like(inputs["input_ids"])}),
        ("VisionEncoderDecoderModel (BERT)", lambda inputs: {"interpolate_pos_encoding": True}),
    ],
)
def test_what_the_encoder_was_given_is_let_pass(name, given):
    case = CASES[name]
    more = given(case.inputs)
    options = {"max_new_tokens": 5, "do_sample": False, **case.options}
    expected = case.shared_plain.generate(**case.inputs, **more, **options)
    assert torch.equal(case.shared.generate(**case.inputs, **more, exit_threshold=2.0, **options), expected)
    with pytest.raises(ValueError, match=r"does not take|not used"):
        case.shared.generate(**case.inputs, no_such_input=1, **options)
