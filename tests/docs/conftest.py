"""A tiny random T5 in place of whatever pages and examples take from the Hub."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

import deed.families.base as families
from deed.models import small_g2p


def tiny_t5():
    tokenizer = small_g2p.build_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=6,  # as many as t5-small has
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def hub(monkeypatch):
    """A tiny random T5 and the g2p tokenizer in place of whatever is asked of the Hub; folders load as they are."""
    torch.manual_seed(0)
    for auto, stand_in in ((AutoModelForSeq2SeqLM, tiny_t5), (AutoTokenizer, small_g2p.build_tokenizer)):
        load = auto.from_pretrained

        def from_pretrained(name, *args, load=load, stand_in=stand_in, **kwargs):
            return load(name, *args, **kwargs) if Path(name).is_dir() else stand_in()

        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)


@pytest.fixture
def own_families(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
