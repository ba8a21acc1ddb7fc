"""Tiny random models with rotary positions, and the speech models of their build: as `tiny_t5`."""

import torch
from tiny_t5 import ROWS, VOCAB, WIDTH, keep, shaken, text
from transformers import (
    CanaryConfig,
    CanaryForConditionalGeneration,
    CohereAsrConfig,
    CohereAsrForConditionalGeneration,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

SPEECH = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 48, "max_position_embeddings": 64}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
GEMMA = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "max_position_embeddings": 64,
    "sliding_window": 3,  # fewer than the tests generate
}


def _audio(length, *kept):
    sound = torch.rand(ROWS, length, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    mask = keep(length, *kept)
    return sound * mask, mask


def moonshine(seed=0):
    torch.manual_seed(seed)
    config = MoonshineConfig(
        **SPEECH,
        **IDS,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=5,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        pad_head_dim_to_multiple_of=16,
    )
    sound, mask = _audio(3400, 3400, 1500, 2500)
    return shaken(MoonshineForConditionalGeneration(config)), {"input_values": sound, "attention_mask": mask}


def moonshine_streaming(seed=0):
    """An encoder of another width than the decoder, with windows shorter than the source."""
    torch.manual_seed(seed)
    encoder = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MoonshineStreamingConfig(
        **SPEECH,
        **IDS,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        encoder_config={**encoder, "num_key_value_heads": 4, "sliding_windows": ((4, 2), (4, 0))},
    )
    sound, mask = _audio(80 * 32, 80 * 32, 80 * 14, 80 * 23)
    model = shaken(MoonshineStreamingForConditionalGeneration(config))
    return model, {"input_values": sound, "attention_mask": mask}


def _conformer(width):
    return {
        "hidden_size": width,
        "num_hidden_layers": 2,
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


def _spectrum():
    mask = keep(16, 16, 9, 13)
    spectrum = torch.rand(ROWS, 16, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"input_features": spectrum * mask[..., None], "attention_mask": mask}


def cohere_asr(seed=0):
    torch.manual_seed(seed)
    config = CohereAsrConfig(
        **SPEECH, **IDS, num_hidden_layers=5, num_attention_heads=4, encoder_config=_conformer(24)
    )
    return shaken(CohereAsrForConditionalGeneration(config)), _spectrum()


def canary(seed=0):
    torch.manual_seed(seed)
    decoder = {**SPEECH, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    config = CanaryConfig(
        **IDS,
        vocab_size=VOCAB,
        encoder_config={"model_type": "parakeet_encoder", **_conformer(WIDTH)},
        decoder_config={**decoder, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    )
    return shaken(CanaryForConditionalGeneration(config)), _spectrum()


def t5gemma(seed=0):
    """Windows, soft caps in the scores and on the logits; a padding token must not be generated (the class would hide it).
    The encoder's windows reach from any padding to a word: where they do not, float64 gives NaN in the class itself."""
    torch.manual_seed(seed)
    encoder = {**GEMMA, "num_hidden_layers": 2, "sliding_window": 32}
    config = T5GemmaConfig(vocab_size=VOCAB, encoder=encoder, decoder={**GEMMA, "num_hidden_layers": 5})
    model = shaken(T5GemmaForConditionalGeneration(config), 0.6)
    model.generation_config.suppress_tokens = [0]
    return model, text()


def t5gemma2(seed=0):
    torch.manual_seed(seed)
    picture = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    types = ["sliding_attention", "full_attention"]
    config = T5Gemma2Config(
        encoder={
            "text_config": {**GEMMA, "num_hidden_layers": 2, "layer_types": types},
            "vision_config": {"model_type": "siglip_vision_model", **picture, "image_size": 8, "patch_size": 4},
            "mm_tokens_per_image": 4,
        },
        decoder={**GEMMA, "num_hidden_layers": 5, "layer_types": [*types, *types, types[0]]},
    )
    model = shaken(T5Gemma2ForConditionalGeneration(config), 0.6)
    model.generation_config.suppress_tokens = [0]
    return model, text()


BUILDERS = {
    "MoonshineForConditionalGeneration": moonshine,
    "MoonshineStreamingForConditionalGeneration": moonshine_streaming,
    "CohereAsrForConditionalGeneration": cohere_asr,
    "CanaryForConditionalGeneration": canary,
    "T5GemmaForConditionalGeneration": t5gemma,
    "T5Gemma2ForConditionalGeneration": t5gemma2,
}
