"""What has no family says so, with the reason or the way out; the docs' table of classes is up to date."""

from pathlib import Path

import pytest
import transformers as hf
from cases import CASES
from table import encoder_decoders, table, without_family
from tiny_composite import BERT, DECODERS, GPT2, of_text

from deed import DeedConfigError, get_deed_model
from deed.families import registered
from deed.families.refused import REFUSED


def bare(name):
    """An instance of a class whose weights do not matter."""
    cls = getattr(hf, name)
    return cls.__new__(cls)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    with pytest.raises(TypeError) as refusal:
        get_deed_model(bare(name))
    message = str(refusal.value)
    assert message == f"early exit does not support {name}: {REFUSED[name]}"
    assert "; " in message, "why; and what to do"


def test_a_class_without_a_family_is_told_of_those_that_have_one():
    with pytest.raises(
        TypeError, match=r"BertLMHeadModel is no encoder-decoder.*BartForConditionalGeneration.*Writing one"
    ):
        get_deed_model(DECODERS["BERT"]())


def test_every_encoder_decoder_of_transformers_is_accounted_for():
    """With each release: give a new one a family, refuse it with a reason, or add it here."""
    assert len(encoder_decoders()) > 40
    assert without_family() == sorted(WITHOUT)


WITHOUT = ["PPFormulaNetForConditionalGeneration", "SpeechT5ForSpeechToText"]


def test_every_registered_class_is_in_the_matrix():
    found = {case.class_name for case in CASES.values()}
    assert found - {"LatrForConditionalGeneration"} == set(registered()), "LaTr++ is a T5"
    assert len(registered()) >= 28


def test_the_table_in_the_docs_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "families_table.md"
    assert page.read_text(encoding="utf-8") == table(), "python tests/families/table.py > docs/families_table.md"


def composite(decoder):
    return hf.EncoderDecoderModel(encoder=of_text(), decoder=decoder)


def test_a_composite_with_another_decoder_is_told_which_there_are():
    inner = hf.ElectraForCausalLM(hf.ElectraConfig(**BERT, embedding_size=8))
    with pytest.raises(TypeError, match=r"EncoderDecoderModel.*ElectraForCausalLM.*BertLMHeadModel.*GPT2LMHeadModel"):
        get_deed_model(composite(inner))


def test_a_composite_with_a_refused_decoder_says_why():
    shape = {"vocab_size": 20, "hidden_size": 24, "num_decoder_layers": 1, "num_decoder_attention_heads": 2}
    config = hf.ProphetNetConfig(**shape, decoder_ffn_dim=8, is_decoder=True, add_cross_attention=True)
    with pytest.raises(TypeError, match=r"ProphetNetForCausalLM.*main stream"):
        get_deed_model(composite(hf.ProphetNetForCausalLM(config)))


def test_a_decoder_that_does_not_see_the_source_is_refused():
    inner = hf.GPT2LMHeadModel(hf.GPT2Config(**{**GPT2, "add_cross_attention": False}))
    with pytest.raises(DeedConfigError, match="add_cross_attention=True"):
        get_deed_model(composite(inner))
