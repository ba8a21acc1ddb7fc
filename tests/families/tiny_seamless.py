"""Tiny random SeamlessM4T models of both versions."""

from typing import Any

import torch
import transformers as hf

from tiny import ENCODER, EOS, LAYERS, PAD, VOCAB, WIDTH, Tiny, text

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "max_position_embeddings": 64,
    "encoder_layers": ENCODER,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_layers": LAYERS,
    "decoder_ffn_dim": 48,
    "decoder_attention_heads": 4,
    "num_hidden_layers": LAYERS,  # so many does plain generate() make its cache of
    "speech_encoder_layers": ENCODER,
    "speech_encoder_attention_heads": 4,
    "speech_encoder_intermediate_size": 48,
    "feature_projection_input_dim": 8,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "conv_depthwise_kernel_size": 3,
    "adaptor_kernel_size": 4,
    "adaptor_stride": 4,
    "speech_encoder_layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "scale_embedding": True,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": EOS,
    "decoder_start_token_id": EOS,
}


def frames(rows: int, length: int = 24) -> dict[str, torch.Tensor]:
    """Ragged filter banks."""
    generator = torch.Generator().manual_seed(rows)
    mask = torch.ones(rows, length, dtype=torch.long)
    for r in range(1, rows):
        mask[r, length - (r * 7) % length :] = 0
    found = torch.randn(rows, length, 8, generator=generator, dtype=torch.float64)
    return {"input_features": found * mask[..., None], "attention_mask": mask}


def seamless(version: str, source: str) -> Tiny:
    """One of the four.

    Args:
        version: "" or "v2".
        source: "Text" or "Speech".
    """

    def make() -> Any:
        config = getattr(hf, f"SeamlessM4T{version}Config")(**SHAPE)
        return getattr(hf, f"SeamlessM4T{version}For{source}ToText")(config)

    # A generated padding token has no position of its own.
    return Tiny(make, text if source == "Text" else frames, options={"suppress_tokens": [PAD]})


SEAMLESS = {
    f"SeamlessM4T{version}For{source}ToText": seamless(version, source)
    for version in ("", "v2")
    for source in ("Text", "Speech")
}
