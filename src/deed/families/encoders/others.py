"""Encoder layers that no decoder family of this package shares: ViT, wav2vec 2.0 and its kin, Pix2Struct's and SeamlessM4T's.

Read in transformers 5.23, models/{vit,deit,wav2vec2,hubert,pix2struct,seamless_m4t,seamless_m4t_v2}/modeling_*.py.
"""

from __future__ import annotations

from typing import Any

from ..parts import direct_norm
from .layer import EncoderLayer, attention_parts, encoder_layer, feed_forward

BART_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")


@encoder_layer("ViTLayer", "DeiTLayer")
def vit_layer(layer: Any) -> EncoderLayer:
    """ViT: pre-norm."""
    attention, mlp = layer.attention, layer.mlp
    return EncoderLayer(
        attention_parts(layer.layernorm_before, attention, heads="num_attention_heads"),
        direct_norm(layer.layernorm_after),
        feed_forward(mlp.fc1, mlp.activation_fn, mlp.fc2),
        (attention, mlp, layer.dropout),
    )


@encoder_layer(
    *(f"{name}EncoderLayer{kind}" for name in ("Wav2Vec2", "Hubert") for kind in ("", "StableLayerNorm")),
)
def wav2vec2_layer(layer: Any) -> EncoderLayer | None:
    """wav2vec 2.0 and HuBERT: post-norm, or pre-norm ("stable"), then perhaps with an adapter, which is not known here."""
    if getattr(layer, "adapter_layer", None) is not None:
        return None
    attention, ffn = layer.attention, layer.feed_forward
    return EncoderLayer(
        attention_parts(layer.layer_norm, attention, BART_NAMES),
        direct_norm(layer.final_layer_norm),
        feed_forward(ffn.intermediate_dense, ffn.intermediate_act_fn, ffn.output_dense),
        (attention, ffn, layer.dropout, ffn.intermediate_dropout, ffn.output_dropout),
        post_norm=not type(layer).__name__.endswith("StableLayerNorm"),
    )


@encoder_layer("SeamlessM4TEncoderLayer", "SeamlessM4Tv2EncoderLayer")
def seamless_layer(layer: Any) -> EncoderLayer:
    """SeamlessM4T's for text: pre-norm."""
    ffn = layer.ffn
    return EncoderLayer(
        attention_parts(layer.self_attn_layer_norm, layer.self_attn, BART_NAMES),
        direct_norm(layer.ffn_layer_norm),
        feed_forward(ffn.fc1, ffn.act, ffn.fc2),
        (layer.self_attn, ffn, layer.attn_dropout, layer.ffn_dropout),
    )
