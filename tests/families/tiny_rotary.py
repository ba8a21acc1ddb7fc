"""Tiny models with rotary positions, and the speech models of their build, for `tiny.TINY`."""

import torch
import transformers as hf

from tiny import ENCODER, EOS, LAYERS, PAD, VOCAB, WIDTH, add, text
from tiny_t5 import ragged, spectrum

SHAPE = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 48, "max_position_embeddings": 64}
TOKENS = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": EOS}
NAMES = {**SHAPE, **TOKENS, "decoder_start_token_id": 0}


def moonshine():
    """Heads of 8, padded to 16 where attention is computed."""
    heads = {"encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "pad_head_dim_to_multiple_of": 16}
    layers = {"encoder_num_hidden_layers": ENCODER, "decoder_num_hidden_layers": LAYERS}
    return hf.MoonshineForConditionalGeneration(hf.MoonshineConfig(**NAMES, **heads, **layers))


def moonshine_streaming():
    """An encoder of another width than the decoder, with windows shorter than its source."""
    encoder = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": ENCODER, "num_attention_heads": 4}
    windows = {"num_key_value_heads": 4, "sliding_windows": ((4, 2), (4, 0))}
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = hf.MoonshineStreamingConfig(**NAMES, **heads, encoder_config={**encoder, **windows})
    return hf.MoonshineStreamingForConditionalGeneration(config)


def sound(rows, length=80 * 40):
    """Waves, shorter from row to row."""
    mask = ragged(rows, length, 80 * 9)
    wave = torch.rand(rows, length, generator=torch.Generator().manual_seed(rows), dtype=torch.float64) * 2 - 1
    return {"input_values": wave * mask, "attention_mask": mask}


add("MoonshineForConditionalGeneration", moonshine, sound)
add("MoonshineStreamingForConditionalGeneration", moonshine_streaming, sound)


def conformer(width):
    """A Parakeet encoder's configuration, which halves the length."""
    return {
        "model_type": "parakeet_encoder",
        "hidden_size": width,
        "num_hidden_layers": ENCODER,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "conv_kernel_size": 3,
        "subsampling_factor": 2,
        "subsampling_conv_channels": 4,
        "num_mel_bins": 8,
        "max_position_embeddings": 64,
        "scale_input": False,
        "dropout": 0.0,
        "layerdrop": 0.0,
    }


def cohere_asr(**options):
    """An encoder of another width than the decoder."""
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, **options}
    config = hf.CohereAsrConfig(**NAMES, **heads, encoder_config=conformer(24))
    return hf.CohereAsrForConditionalGeneration(config)


def canary():
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    decoder = {**SHAPE, **TOKENS, **heads}
    tokens = {**TOKENS, "decoder_start_token_id": 0, "vocab_size": VOCAB}
    config = hf.CanaryConfig(**tokens, encoder_config=conformer(WIDTH), decoder_config=decoder)
    return hf.CanaryForConditionalGeneration(config)


def mel(rows):
    """Mel bins, fewer frames from row to row."""
    return spectrum(rows, 16, 8)


add("CohereAsrForConditionalGeneration", cohere_asr, mel)
add("CohereAsrForConditionalGeneration-shared-heads", lambda: cohere_asr(num_key_value_heads=2), mel)
add("CanaryForConditionalGeneration", canary, mel)

GEMMA = {
    **SHAPE,
    **TOKENS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 3,  # shorter than what is generated
}


def t5gemma(**options):
    """Windows, soft caps on scores and logits. From any padding the encoder's windows reach a word: float64 gives NaN where
    they do not, in the class itself."""
    encoder = {**GEMMA, "num_hidden_layers": ENCODER, "sliding_window": 32}
    decoder = {**GEMMA, "num_hidden_layers": LAYERS, **options}
    config = hf.T5GemmaConfig(**TOKENS, vocab_size=VOCAB, encoder=encoder, decoder=decoder)
    return hf.T5GemmaForConditionalGeneration(config)


def t5gemma2():
    picture = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    kinds = ["sliding_attention", "full_attention"]
    config = hf.T5Gemma2Config(
        **TOKENS,
        encoder={
            "text_config": {**GEMMA, "num_hidden_layers": ENCODER, "layer_types": kinds},
            "vision_config": {"model_type": "siglip_vision_model", **picture, "image_size": 8, "patch_size": 4},
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE,
        },
        decoder={**GEMMA, "num_hidden_layers": LAYERS, "layer_types": kinds * 2},
        image_token_index=IMAGE,
    )
    return hf.T5Gemma2ForConditionalGeneration(config)


IMAGE = VOCAB - 1  # stands for a picture's patches


def text_with_picture(rows):
    """A picture's four patches before ragged text."""
    found = text(rows)
    ids = found["input_ids"].masked_fill(found["input_ids"] == IMAGE, 3)
    patches = torch.full((rows, 4), IMAGE)
    pixels = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    mask = torch.cat([torch.ones_like(patches), found["attention_mask"]], 1)
    return {"input_ids": torch.cat([patches, ids], 1), "attention_mask": mask, "pixel_values": pixels}


# Both hide a padding token that was generated, but only in a pass without a cache.
add("T5GemmaForConditionalGeneration", t5gemma, suppress_tokens=[PAD])
add("T5Gemma2ForConditionalGeneration", t5gemma2, suppress_tokens=[PAD])
add("T5Gemma2ForConditionalGeneration-picture", t5gemma2, text_with_picture, suppress_tokens=[PAD])
