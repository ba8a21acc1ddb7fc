"""Transcription with tiny random models: Whisper by its own rules, short and long; other models in pieces."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks.tiny_whisper import VOCAB, WordProcessor, word_whisper
from transformers import Speech2TextConfig, Speech2TextFeatureExtractor, Speech2TextForConditionalGeneration

import deed
from deed import DeedConfig, get_deed_model
from deed.pipelines.speech import cut_at_quiet

RATE = 16_000


@pytest.fixture(scope="module")
def whisper():
    return word_whisper()


def noise(seconds, seed=0):
    return np.random.default_rng(seed).standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1


def test_short_recordings_equal_generate_by_hand(whisper):
    model, processor = whisper
    pipe = deed.pipeline("transcribe", model, processor=processor, batch_size=2, language="en")
    clips = [noise(1.0), noise(0.5, 1), noise(2.0, 2)]
    results = pipe(clips)
    for clip, result in zip(clips, results, strict=True):
        inputs = processor.feature_extractor([clip], sampling_rate=RATE, return_tensors="pt")
        tokens = model.generate(**inputs, language="en")
        assert result["text"] == processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    assert any(result["text"] for result in results)
    assert "chunks" not in results[0]


def test_timestamps(whisper):
    model, processor = whisper
    pipe = deed.pipeline("transcribe", model, processor=processor, language="en")
    clip = {"array": noise(1.0), "sampling_rate": RATE}
    result = pipe(clip, return_timestamps=True, task="translate")
    assert result["chunks"]
    assert all(0 <= chunk["timestamp"][0] <= chunk["timestamp"][1] for chunk in result["chunks"])
    assert all(at == round(at, 2) for chunk in result["chunks"] for at in chunk["timestamp"])


def test_a_long_recording_goes_whispers_own_way(whisper):
    model, processor = whisper
    pipe = deed.pipeline("transcribe", model, processor=processor, language="en")
    clip = noise(5.0)
    inputs = processor.feature_extractor(
        [clip],
        sampling_rate=RATE,
        return_tensors="pt",
        truncation=False,
        padding="longest",
        return_attention_mask=True,
    )
    tokens = model.generate(**inputs, language="en", return_timestamps=True)
    result = pipe(clip)
    assert result["text"] == processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    assert "chunks" not in result
    both = pipe([clip, noise(1.0)], return_timestamps=True)
    assert both[0]["chunks"][-1]["timestamp"][1] > 2.0


def test_other_models_get_pieces():
    config = Speech2TextConfig(
        vocab_size=len(VOCAB),
        d_model=16,
        encoder_layers=1,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        conv_channels=16,
        input_feat_per_channel=8,
        max_source_positions=200,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    model = Speech2TextForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3 if p.ndim > 1 else 0.1)
    model = get_deed_model(model, DeedConfig(threshold=0.5))
    processor = WordProcessor(Speech2TextFeatureExtractor(feature_size=8, num_mel_bins=8))
    pipe = deed.pipeline(
        "transcribe", model, processor=processor, chunk_seconds=1.0, max_new_tokens=5, suppress_tokens=[0, 1]
    )
    clip = noise(2.5)
    whole = pipe(clip)
    parts = list(cut_at_quiet(clip, RATE, RATE // 10))
    assert len(parts) >= 3
    assert whole["text"] == " ".join(filter(None, (pipe(part)["text"] for part in parts)))
    assert whole["depth"] >= 1


def test_what_cannot_be_done(whisper):
    model, processor = whisper
    pipe = deed.pipeline("transcribe", model, processor=processor, language="en")
    with pytest.raises(ValueError, match="cannot be streamed"):
        pipe.stream(noise(1.0))
    with pytest.raises(ValueError, match='True, False or "word"'):
        pipe(noise(1.0), return_timestamps="words")
    with pytest.raises(TypeError, match="needs a processor with a feature extractor"):
        deed.pipeline("transcribe", model, processor=processor.tokenizer)


@given(st.integers(0, 5000), st.integers(30, 900), st.integers(0, 3))
def test_pieces_are_the_whole_and_none_is_too_long(size, longest, seed):
    samples = np.random.default_rng(seed).standard_normal(size)
    parts = list(cut_at_quiet(samples, longest, 10))
    assert np.array_equal(np.concatenate(parts), samples)
    assert all(len(part) <= longest for part in parts)


def test_a_cut_is_where_it_is_quiet():
    samples = np.ones(2000)
    samples[820:860] = 0
    first = next(cut_at_quiet(samples, 1000, 20))
    assert 820 <= len(first) <= 860
