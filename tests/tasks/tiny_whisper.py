"""A tiny random Whisper for many languages in a folder, with a processor as OpenAI's: bytes instead of merged tokens."""

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

TIMES = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
MARKS = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]


def tiny_tokenizer(multilingual=True):
    """With as many tokens as the real ones."""
    words = 50257 if multilingual else 50256
    vocab = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {f"<unused{i}>": i for i in range(len(vocab), words)}
    tokenizer = WhisperTokenizer(vocab={**vocab, "<|endoftext|>": words}, merges=[])
    languages = list(LANGUAGES)[:99]
    special = ["<|startoftranscript|>", *(f"<|{one}|>" for one in languages), *(f"<|{one}|>" for one in MARKS)]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens(TIMES)
    tokenizer.pad_token = tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def save_tiny_whisper(folder, multilingual=True):
    """The folder, the plain model and its processor."""
    tokenizer = tiny_tokenizer(multilingual)
    ids = {token: i for token, i in tokenizer.get_vocab().items() if token.startswith("<|")}
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=8,
        max_target_positions=24,
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4 if parameter.ndim > 1 else 0.1)
    values = {"no_timestamps_token_id": ids["<|notimestamps|>"], "is_multilingual": multilingual}
    if multilingual:
        values["lang_to_id"] = {f"<|{one}|>": ids[f"<|{one}|>"] for one in list(LANGUAGES)[:99]}
        values["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")}
    vars(model.generation_config).update(values, _from_model_config=False)
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
