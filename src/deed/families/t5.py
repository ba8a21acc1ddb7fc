"""T5 and mT5: pre-norm blocks, a relative position bias shared by the layers, a final RMS norm, a scaled tied head.

Read in transformers 5.23, models/t5/modeling_t5.py. v1.0 (tied, ReLU) and v1.1 / Flan / mT5 (untied, gated) differ only
in their weights and in `config.scale_decoder_outputs`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .base import DecoderFamily, register_family
from .parts import AttentionParts, LayerParts, Module, direct, direct_rms_norm, joined, plain


@register_family("T5ForConditionalGeneration", "MT5ForConditionalGeneration")
class T5Family(DecoderFamily):
    """T5 and mT5."""

    has_bias = True

    def decoder(self, model: Any) -> nn.Module:
        """`model.decoder`."""
        return model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        """Its blocks."""
        return model.decoder.block

    def heads(self, model: Any) -> tuple[int, int]:
        """`num_heads` and `d_kv`."""
        return model.config.num_heads, model.config.d_kv

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens alone: positions act through the scores.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        return model.decoder.dropout(model.decoder.embed_tokens(ids))

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        """The first block's, which serves all.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
            layer: 0-based.
        """
        attention = model.decoder.block[0].layer[0].SelfAttention  # the first block's serves all
        return attention.compute_bias(stop - start, stop, past_seen_tokens=start)

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A block by its own `forward`; of what it returns, the hidden states."""
        self_mask, bias, encoder_hidden, encoder_mask, cache, _ = given
        # A zero bias is given for the cross-attention: with None each layer would build one of full size.
        zero = hidden.new_zeros(1, 1, 1, 1)
        return layer(hidden, self_mask, bias, encoder_hidden, encoder_mask, zero, past_key_values=cache)[0]

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every block; None in fp16, where blocks clamp what overflows."""
        blocks: list[Any] = list(self.layers(model))
        if any(type(block).__name__ != "T5Block" and type(block).__name__ != "MT5Block" for block in blocks):
            return None
        found = []
        for block in blocks:
            self_attn, cross, ffn = block.layer
            containers = (block, self_attn, self_attn.SelfAttention, cross, cross.EncDecAttention, ffn)
            # In fp16 the blocks clamp what overflows.
            if not plain(containers) or self_attn.layer_norm.weight.dtype == torch.float16:
                return None
            found.append(
                LayerParts(
                    joined(_attention(self_attn.layer_norm, self_attn.SelfAttention)),
                    _attention(cross.layer_norm, cross.EncDecAttention),
                    _norm(ffn.layer_norm),
                    _ffn(ffn.DenseReluDense),
                )
            )
        return found

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `EncDecAttention.k` and `.v`."""
        attention = layer.layer[1].EncDecAttention
        shape = (*encoder_hidden.shape[:2], -1, attention.key_value_proj_dim)
        keys = direct(attention.k)(encoder_hidden).view(shape).transpose(1, 2)
        return keys, direct(attention.v)(encoder_hidden).view(shape).transpose(1, 2)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The final RMS norm."""
        return model.decoder.dropout(model.decoder.final_layer_norm(hidden))

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`lm_head`, its input scaled where it is tied."""
        if _scaled(model):
            hidden = hidden * (model.model_dim**-0.5)
        return model.lm_head(hidden)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The two as bare functions."""
        if model.decoder.dropout.training:
            return super().norm_and_head(model)
        head, factor = direct(model.lm_head), model.model_dim**-0.5
        scaled = (lambda x: head(x * factor)) if _scaled(model) else head
        return _norm(model.decoder.final_layer_norm), scaled

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`lm_head`, no bias, the scale."""
        return model.lm_head.weight, None, model.model_dim**-0.5 if _scaled(model) else 1.0


def _scaled(model: Any) -> bool:
    # vars(): the configuration's own attribute lookup takes as long as the projection. MT5Config has no such field.
    return vars(model.config).get("scale_decoder_outputs", False)


def _attention(norm: Any, attention: Any) -> AttentionParts:
    q, k, v, out = (direct(x) for x in (attention.q, attention.k, attention.v, attention.o))
    heads, head_dim = attention.n_heads, attention.key_value_proj_dim
    return AttentionParts(_norm(norm), q, k, v, out, heads, head_dim, attention.scaling)


def _norm(norm: Any) -> Module:
    known = type(norm).__name__ in ("T5LayerNorm", "MT5LayerNorm")
    return direct_rms_norm(norm, norm.variance_epsilon) if known else norm


def _ffn(ffn: Any) -> Module:
    """The feed-forward without its dropout and its casts, where there is nothing to cast."""
    kind = type(ffn).__name__.removeprefix("M")
    weight = getattr(ffn.wo, "weight", None)
    if not plain([ffn]) or not isinstance(weight, torch.Tensor) or weight.dtype not in (torch.float32, torch.float64):
        return ffn
    act, down = direct(ffn.act), direct(ffn.wo)
    if kind == "T5DenseActDense":
        up = direct(ffn.wi)
        return lambda x: down(act(up(x)))
    if kind == "T5DenseGatedActDense":
        gate, linear = direct(ffn.wi_0), direct(ffn.wi_1)
        return lambda x: down(act(gate(x)) * linear(x))
    return ffn
