"""The exits that come with deed for Whisper base: small, whole, and of a Whisper base's sizes. Their base is not shipped."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

import deed
from deed.errors import DeedLoadError

FOLDER = Path(deed.__file__).parent / "checkpoints" / "whisper_base"


@pytest.fixture(scope="module")
def random_base():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=51865, d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        encoder_attention_heads=8, decoder_attention_heads=8,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def test_they_are_small_and_finite():
    tensors = load_file(FOLDER / "deed_exits.safetensors")
    assert (FOLDER / "deed_exits.safetensors").stat().st_size < 30e6
    assert tensors.pop("draft_head.ids").dtype == torch.long
    assert all(value.dtype == torch.float16 and value.isfinite().all() for value in tensors.values())


def test_their_configuration():
    about = json.loads((FOLDER / "deed_exits.json").read_text())
    config = about["deed_config"]
    assert config["exit_layers"] == [1, 6] and config["adapter"] == "layer"
    assert config["threshold"] == [2.0]  # full depth unless asked: what leaves early changes words
    assert config["draft_head"]["tokens"] == 4000
    assert "Whisper" in about["base"]["class"]


def test_they_fit_a_whisper_base_and_are_refused_by_other_weights(random_base):
    with pytest.raises(DeedLoadError, match="trained on other weights"):
        deed.load_exits(random_base, FOLDER)
    model = deed.load_exits(random_base, FOLDER, any_base=True)
    features = torch.randn(1, 80, 3000)
    out = model.generate(
        features, exit_threshold=0.0, max_new_tokens=3, decoder_input_ids=torch.tensor([[50258, 50259, 50359, 50363]]),
        return_dict_in_generate=True, do_sample=False,
    )  # fmt: skip
    (depths,) = out.exit_layers
    assert depths[depths > 0].tolist() == [1] * int((depths > 0).sum())


def test_the_card_names_whose_voices_they_are():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "asterisk-core-sounds-en" in text and "CC-BY-SA-3.0" in text and "Allison Smith" in text
