"""OFA: pre-norm layers with a norm after each attention, a factor per head, and positions that act through the scores.

Two things are particular. The self-attention bias differs by layer (an absolute part shared by all, a relative part of
each layer's own), and attention to the source has a bias too, made of the encoder's position embeddings. Both are
functions of positions alone, so a just-in-time block takes its rows from the same tables as any other. The model is
ours (`models/ofa`), and its decoder answers for both.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache

from .base import DecoderFamily, register_family
from .parts import AttentionParts, LayerParts, Module, direct, joined, plain


@register_family("OFAForConditionalGeneration")
class OFAFamily(DecoderFamily):
    has_bias = True
    bias_per_layer = True
    has_cross_bias = True

    def for_source(self, model: Any, encoder_outputs: Any) -> DecoderFamily:
        positions = getattr(encoder_outputs, "position_embeddings", None)
        if positions is None:
            raise ValueError("encoder_outputs must be what the encoder returned: position_embeddings are missing")
        codes = getattr(encoder_outputs, "code_masks", None)
        if codes is not None and bool(codes.any()) and not bool(codes.all()):
            raise ValueError(
                "code_masks: with early exit, either all rows of a batch write images or none; generate them apart"
            )
        return OFAWithSource(positions[:1], codes is not None and bool(codes.any()))

    def decoder(self, model: Any) -> nn.Module:
        return model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        return model.decoder.layers

    def heads(self, model: Any) -> tuple[int, int]:
        heads = model.config.decoder_attention_heads
        return heads, model.config.d_model // heads

    def embed(self, model: Any, ids: torch.Tensor, start: Any) -> torch.Tensor:
        return model.decoder.embed(ids, start)

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        return _self_bias(model, start, stop, layer)

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
        if bias is not None and self_mask is not None:
            lowest = torch.finfo(bias.dtype).min
            keep = self_mask if self_mask.dtype == torch.bool else self_mask == 0
            bias = bias.masked_fill(~keep, lowest)
        return layer(hidden, bias, encoder_hidden, encoder_mask, past_key_values=cache)

    def parts(self, model: Any) -> list[LayerParts] | None:
        found = []
        layers: list[Any] = list(self.layers(model))
        for layer in layers:
            containers = (layer, layer.self_attn, layer.cross_attn)
            # A factor on the residual is in no released checkpoint: such a layer runs by itself.
            if type(layer).__name__ != "OFADecoderLayer" or layer.w_resid is not None or not plain(containers):
                return None
            found.append(
                LayerParts(
                    _attention(layer.self_attn_layer_norm, layer.self_attn, layer.self_attn_mid_layer_norm),
                    _attention(layer.cross_attn_layer_norm, layer.cross_attn, layer.cross_attn_mid_layer_norm),
                    _norm(layer.final_layer_norm),
                    _chain(layer.fc1, layer.activation_fn, layer.ffn_layer_norm, layer.fc2),
                )
            )
        return found

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention = layer.cross_attn
        keys, values = direct(attention.k_proj)(encoder_hidden), direct(attention.v_proj)(encoder_hidden)
        return attention.split(keys), attention.split(values)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        return model.decoder.layer_norm(hidden)

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        return model.decoder.output_projection(hidden)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        return _norm(model.decoder.layer_norm), direct(model.decoder.output_projection)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        return model.decoder.output_projection.weight, None, 1.0


class OFAWithSource(OFAFamily):
    """The family for one generation.

    Args:
        positions: the encoder's position embeddings, the same for every row: `[1, source, d_model]`.
        codes: the rows write images as codes.
    """

    def __init__(self, positions: torch.Tensor, codes: bool) -> None:
        self.positions, self.codes = positions, codes

    def join_sources(self, other: DecoderFamily) -> DecoderFamily:
        assert isinstance(other, OFAWithSource)
        short, long = sorted((self, other), key=lambda family: family.positions.shape[1])
        same = torch.equal(short.positions, long.positions[:, : short.positions.shape[1]])
        if not same or self.codes != other.codes:
            raise ValueError(
                "OFA: rows share their source's positions, so only sources with pictures of one size, or none, can share a "
                "batch; decode these apart"
            )
        return long

    def embed(self, model: Any, ids: torch.Tensor, start: Any) -> torch.Tensor:
        codes = torch.ones(len(ids), dtype=torch.bool, device=ids.device) if self.codes else None
        return model.decoder.embed(ids, start, codes)

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        return _self_bias(model, start, stop, layer, self.codes)

    def cross_bias(self, model: Any, start: int, stop: int) -> torch.Tensor | None:
        end = _last(model, stop)
        bias = model.decoder.cross_bias(self.positions, start, end, self.codes)
        return nn.functional.pad(bias, (0, 0, 0, stop - end))


def _self_bias(model: Any, start: int, stop: int, layer: int, codes: bool = False) -> torch.Tensor:
    end = _last(model, stop)
    bias = model.decoder.absolute_bias(start, end, codes) + model.decoder.relative_bias(layer, start, end, codes)
    return nn.functional.pad(bias, (0, stop - end, 0, stop - end))


def _last(model: Any, stop: int) -> int:
    """`stop`, or where the model's positions end: tables may be asked for beyond, `embed` is not."""
    return min(stop, model.config.max_position_embeddings)


def _attention(norm: Any, attention: Any, after: Any) -> AttentionParts:
    q, k, v = (direct(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj))
    out = _chain(attention.out_proj, after)
    if attention.config.scale_heads:
        out = _scaled(attention.c_attn, attention.head_dim, out)
    heads, head_dim = attention.num_heads, attention.head_dim
    qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
    return AttentionParts(_norm(norm), q, k, v, out, heads, head_dim, attention.scaling, qkv)


def _scaled(factors: torch.Tensor, head_dim: int, then: Module) -> Module:
    """The factors of heads, on the heads side by side."""
    spread = factors.detach().repeat_interleave(head_dim)
    return lambda x: then(x * spread)


def _chain(*modules: Any) -> Module:
    """Modules one after the other, leaving out what is None."""
    steps = [_norm(m) if type(m) is nn.LayerNorm else _activation(m) for m in modules if m is not None]
    return steps[0] if len(steps) == 1 else functools.partial(_in_turn, steps)


def _in_turn(steps: list[Module], x: torch.Tensor) -> torch.Tensor:
    for step in steps:
        x = step(x)
    return x


def _activation(module: Any) -> Module:
    return nn.functional.gelu if type(module).__name__ == "GELUActivation" else direct(module)


def _norm(module: Any) -> Module:
    if type(module) is not nn.LayerNorm or not plain([module]):
        return module
    return functools.partial(_layer_norm, module.normalized_shape, module.weight, module.bias, module.eps)


def _layer_norm(
    shape: tuple[int, ...], weight: torch.Tensor, bias: torch.Tensor, eps: float, x: torch.Tensor
) -> torch.Tensor:
    return nn.functional.layer_norm(x, shape, weight, bias, eps)
