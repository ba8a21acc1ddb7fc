"""BART: post-norm layers, learned positions, no final norm, a bias on the logits.

Read in transformers 5.23, models/bart/modeling_bart.py.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache

from .base import DecoderFamily, register_family
from .parts import AttentionParts, LayerParts, Module, direct, joined, plain


@register_family("BartForConditionalGeneration")
class BartFamily(DecoderFamily):
    """BART."""

    def decoder(self, model: Any) -> nn.Module:
        """`model.model.decoder`."""
        return model.model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        """Its layers."""
        return model.model.decoder.layers

    def heads(self, model: Any) -> tuple[int, int]:
        """`decoder_attention_heads`, and d_model over it."""
        return model.config.decoder_attention_heads, model.config.d_model // model.config.decoder_attention_heads

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and learned positions, normed.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        decoder = model.model.decoder
        placed = decoder.embed_positions(ids, position_ids=positions)[
            0
        ]  # the module puts an axis before its positions
        hidden = decoder.embed_tokens(ids) + placed
        return nn.functional.dropout(decoder.layernorm_embedding(hidden), decoder.dropout, decoder.training)

    def run(
        self,
        layer: Any,
        hidden: torch.Tensor,
        self_mask: torch.Tensor | None,
        bias: torch.Tensor | None,
        encoder_hidden: torch.Tensor,
        encoder_mask: torch.Tensor | None,
        cache: EncoderDecoderCache,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """A layer by its own `forward`.

        Args:
            layer: one of `layers`.
            hidden: `[rows, q, d_model]`.
            self_mask: `[rows or 1, 1, q, keys]`, as Transformers makes it, or None.
            bias: `[1, heads, q, keys]`, or None.
            encoder_hidden: `[rows, source, d_model]`.
            encoder_mask: `[rows or 1, 1 or heads, 1 or q, source]`, or None.
            cache: what the layer gets as `past_key_values`.
            positions: not used.
        """
        return layer(hidden, self_mask, encoder_hidden, encoder_mask, past_key_values=cache, use_cache=True)

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every layer, norms after the sums."""
        found = []
        layers: list[Any] = list(self.layers(model))
        for layer in layers:
            if type(layer).__name__ != "BartDecoderLayer" or not plain((layer, layer.self_attn, layer.encoder_attn)):
                return None
            found.append(
                LayerParts(
                    joined(_attention(layer.self_attn_layer_norm, layer.self_attn)),
                    _attention(layer.encoder_attn_layer_norm, layer.encoder_attn),
                    layer.final_layer_norm,
                    _FeedForward(layer),
                    post_norm=True,
                )
            )
        return found

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `encoder_attn.k_proj` and `.v_proj`."""
        attention = layer.encoder_attn
        shape = (*encoder_hidden.shape[:2], -1, attention.head_dim)
        keys = direct(attention.k_proj)(encoder_hidden).view(shape).transpose(1, 2)
        return keys, direct(attention.v_proj)(encoder_hidden).view(shape).transpose(1, 2)

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`lm_head` and `final_logits_bias`."""
        return model.lm_head(hidden) + model.final_logits_bias

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The head as a bare function; there is no final norm."""
        head, bias = direct(model.lm_head), model.final_logits_bias
        return functools.partial(self.final_norm, model), lambda x: head(x) + bias

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`lm_head`, `final_logits_bias`, no scale."""
        return model.lm_head.weight, model.final_logits_bias[0], 1.0


class _FeedForward:
    """A BART layer's feed-forward network, which BART writes inline in its layer."""

    def __init__(self, layer: Any) -> None:
        self.up, self.act, self.down = direct(layer.fc1), direct(layer.activation_fn), direct(layer.fc2)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(hidden)))


def _attention(norm: Any, attention: Any) -> AttentionParts:
    q, k, v, out = (direct(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj))
    heads, head_dim = attention.num_heads, attention.head_dim
    return AttentionParts(norm, q, k, v, out, heads, head_dim, attention.scaling)
