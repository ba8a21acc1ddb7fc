"""T5 and mT5: pre-norm blocks, a relative position bias shared by the layers, a final RMS norm, a scaled tied head.

Read in transformers 5.23, models/t5/modeling_t5.py. v1.0 (tied, ReLU) and v1.1 / Flan / mT5 (untied, gated) differ only
in their weights and in `config.scale_decoder_outputs`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache

from .base import DecoderFamily, register_family


@register_family("T5ForConditionalGeneration", "MT5ForConditionalGeneration")
class T5Family(DecoderFamily):
    def decoder(self, model: Any) -> nn.Module:
        return model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        return model.decoder.block

    def heads(self, model: Any) -> tuple[int, int]:
        return model.config.num_heads, model.config.d_kv

    def embed(self, model: Any, ids: torch.Tensor, start: int) -> torch.Tensor:
        return model.decoder.dropout(model.decoder.embed_tokens(ids))

    def position_bias(self, model: Any, length: int) -> torch.Tensor | None:
        return model.decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)

    def run(
        self,
        layer: Any,
        hidden: torch.Tensor,
        self_mask: torch.Tensor | None,
        bias: torch.Tensor | None,
        encoder_hidden: torch.Tensor,
        encoder_mask: torch.Tensor | None,
        cache: EncoderDecoderCache,
    ) -> torch.Tensor:
        # A zero bias is given for the cross-attention: with None each layer would build one of full size.
        zero = hidden.new_zeros(1, 1, 1, 1)
        return layer(hidden, self_mask, bias, encoder_hidden, encoder_mask, zero, past_key_values=cache)[0]

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention = layer.layer[1].EncDecAttention
        shape = (*encoder_hidden.shape[:2], -1, attention.key_value_proj_dim)
        keys = attention.k(encoder_hidden).view(shape).transpose(1, 2)
        return keys, attention.v(encoder_hidden).view(shape).transpose(1, 2)

    def finish(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        return model.decoder.dropout(model.decoder.final_layer_norm(hidden))

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        # vars(): the configuration's own attribute lookup takes as long as the projection. MT5Config has no such field.
        if vars(model.config).get("scale_decoder_outputs", False):
            hidden = hidden * (model.model_dim**-0.5)
        return model.lm_head(hidden)
