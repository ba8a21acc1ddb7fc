"""The tokens that exact decoding takes, how sure it is of them, and what it drafts where exits never leave by themselves."""

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from conftest import VOCAB, batch, deed_model
from deed import DeedConfig, get_deed_model, quantize
from deed.constants import NEVER_EXIT
from deed.engine.exact_choice import NEAR, confident, verdicts
from deed.engine.exact_tuning import BINS, Tuner
from deed.kernels.native.attention import available


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_first_of_the_best_and_near_ties(dtype):
    values = torch.tensor([[1, 9, 3, 9], [0, 1, 2, 7], [-torch.inf, -torch.inf, 4, 5]]).to(dtype)
    assert verdicts(values, dtype) == ([1, 3, 3], [True, False, False])
    step = torch.finfo(dtype).eps
    close = torch.tensor([[1.0, 1 - NEAR / 2 * step], [1.0, 1 - 2 * NEAR * step]], dtype=dtype)
    assert verdicts(close, dtype)[1] == [True, False]


def test_verdicts_are_torchs_on_many_values():
    values = torch.randn(5, 3001, generator=torch.Generator().manual_seed(0))
    tokens, near = verdicts(values, torch.float32)
    assert tokens == values.argmax(-1).tolist() and near == [False] * 5
    assert values.equal(torch.randn(5, 3001, generator=torch.Generator().manual_seed(0))), "they are not to be changed"


def test_confidence_is_the_largest_probability():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    logits[2, 3:] = -torch.inf  # not allowed
    expected = logits.softmax(-1).max(-1)
    values, best = confident(logits)
    torch.testing.assert_close(torch.tensor(values), expected.values)
    assert best.tolist() == expected.indices.tolist()


def test_before_there_are_verdicts_a_chance_is_a_confidence():
    tuner = Tuner([1])
    chances = [tuner.chance(0, 1 - 2 ** (-(b + 0.5) / 2)) for b in range(BINS)]
    assert chances == sorted(chances) and chances[-1] < 1
    assert chances[8] == pytest.approx(1 - 2**-4.25)


def test_drafts_where_the_exits_own_threshold_never_leaves():
    """Calibration may find that no token is to leave early; exact decoding drafts all the same. Not where it is told to."""
    model = deed_model("t5_tied", DeedConfig(exit_layers=[1, 5], threshold=[NEVER_EXIT]), dtype=torch.float64)
    with torch.no_grad():  # surer of itself than a random head
        model.get_output_embeddings().weight.mul_(30)
    options = {"max_new_tokens": 12, "return_dict_in_generate": True}
    expected = model.generate(**batch(), **options)
    assert not (expected.exit_layers == 1).any()
    got = model.generate(**batch(), **options, exact=True)
    assert torch.equal(got.sequences, expected.sequences)
    assert got.past_key_values.stats()["drafted_tokens"] > 0
    told = model.generate(**batch(), **options, exact=True, exit_threshold=NEVER_EXIT)
    assert told.past_key_values.stats()["drafted_tokens"] == 0


def bart_with_wide_heads(seed):
    """Heads of 16, which the native attention takes."""
    torch.manual_seed(seed)
    names = ("encoder_attention_heads", "decoder_attention_heads")
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 96}
    ends = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=VOCAB, **sizes, **dict.fromkeys(names, 4), max_position_embeddings=64, **ends)
    model = BartForConditionalGeneration(config).eval()
    model.generation_config.forced_eos_token_id = None
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.3)
    return get_deed_model(model, DeedConfig(exit_layers=[1, 4]))


@pytest.mark.skipif(not available(), reason="the native library is not built, or off")
def test_in_int8_logits_are_full_depths_bit_for_bit(monkeypatch):
    """Of one row: products, norms and attention give a position in a block what they give it alone."""
    monkeypatch.setenv("DEED_KERNELS", "fixed")
    monkeypatch.setattr(Tuner, "warm", False)
    stood = 0
    for seed in range(3):
        plain = bart_with_wide_heads(seed)
        with torch.no_grad():  # layers that change little, so that drafts stand
            for layer in plain.get_decoder().layers[1:]:
                for part in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                    part.weight.mul_(0.1)
        model = quantize(plain, parts=["decoder", "head"], min_weights=0)
        options = {"max_new_tokens": 16, "min_new_tokens": 16, "return_dict_in_generate": True, "output_logits": True}
        inputs = {name: x[:1] for name, x in batch(4, seed=seed).items()}
        expected = model.generate(**inputs, **options, exit_threshold=NEVER_EXIT)
        got = model.generate(**inputs, **options, exit_threshold=0.0, exact=True)
        stood += got.past_key_values.stats()["accepted_tokens"]
        assert torch.equal(got.sequences, expected.sequences)
        assert all(torch.equal(a, b) for a, b in zip(got.logits, expected.logits, strict=True))
    assert stood, "the case is vacuous: drafts have to stand"
