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

from .base import DecoderFamily, by_starts, register_family
from .encoders.layer import EncoderLayer, encoder_layer
from .parts import AttentionParts, LayerParts, Module, direct, direct_norm, joined, plain


@register_family("OFAForConditionalGeneration")
class OFAFamily(DecoderFamily):
    """OFA. What depends on the source is in `OFAWithSource`."""

    has_bias = True
    bias_per_layer = True
    has_cross_bias = True

    def for_source(self, model: Any, encoder_outputs: Any) -> DecoderFamily:
        """The family with the source's positions.

        Raises:
            ValueError: outputs of another encoder, or a batch that writes images in some rows only.
        """
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
        """`model.decoder`."""
        return model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        """Its layers."""
        return model.decoder.layers

    def heads(self, model: Any) -> tuple[int, int]:
        """`decoder_attention_heads`, and d_model over it."""
        heads = model.config.decoder_attention_heads
        return heads, model.config.d_model // heads

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and, where they are entangled, positions.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        return _embed(model, ids, positions)

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        """Absolute and relative part of the layer's bias.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
            layer: 0-based.
        """
        return _self_bias(model, start, stop, layer)

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`, the mask folded into the bias."""
        self_mask, bias, encoder_hidden, encoder_mask, cache, _ = given
        if bias is not None and self_mask is not None:
            lowest = torch.finfo(bias.dtype).min
            keep = self_mask if self_mask.dtype == torch.bool else self_mask == 0
            bias = bias.masked_fill(~keep, lowest)
        return layer(hidden, bias, encoder_hidden, encoder_mask, past_key_values=cache)

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every layer; None with factors on the residual."""
        found = []
        layers: list[Any] = list(self.layers(model))
        for layer in layers:
            containers = (layer, layer.self_attn, layer.cross_attn)
            # A factor on the residual is in no released checkpoint: such a layer runs by itself.
            if type(layer).__name__ != "OFADecoderLayer" or layer.w_resid is not None or not plain(containers):
                return None
            found.append(
                LayerParts(
                    joined(_attention(layer.self_attn_layer_norm, layer.self_attn, layer.self_attn_mid_layer_norm)),
                    _attention(layer.cross_attn_layer_norm, layer.cross_attn, layer.cross_attn_mid_layer_norm),
                    direct_norm(layer.final_layer_norm),
                    _chain(layer.fc1, layer.activation_fn, layer.ffn_layer_norm, layer.fc2),
                )
            )
        return found

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `cross_attn.k_proj` and `.v_proj`."""
        attention = layer.cross_attn
        keys, values = direct(attention.k_proj)(encoder_hidden), direct(attention.v_proj)(encoder_hidden)
        return attention.split(keys), attention.split(values)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The decoder's last norm."""
        return model.decoder.layer_norm(hidden)

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`output_projection`."""
        return model.decoder.output_projection(hidden)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The two as bare functions."""
        return direct_norm(model.decoder.layer_norm), direct(model.decoder.output_projection)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`output_projection`, no bias, no scale."""
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
        """The family with the longer of two sources, of which the other's positions are the beginning.

        Raises:
            ValueError: pictures of different sizes, or images written in one of the two only.
        """
        assert isinstance(other, OFAWithSource)
        short, long = sorted((self, other), key=lambda family: family.positions.shape[1])
        same = torch.equal(short.positions, long.positions[:, : short.positions.shape[1]])
        if not same or self.codes != other.codes:
            raise ValueError(
                "OFA: rows share their source's positions, so only sources with pictures of one size, or none, can share a "
                "batch; decode these apart"
            )
        return long

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and, where they are entangled, positions.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        return _embed(model, ids, positions, self.codes)

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        """Absolute and relative part of the layer's bias.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
            layer: 0-based.
        """
        return _self_bias(model, start, stop, layer, self.codes)

    def cross_bias(self, model: Any, start: int, stop: int) -> torch.Tensor | None:
        """Positions of the target against those of the source.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
        """
        end = _last(model, stop)
        bias = model.decoder.cross_bias(self.positions, start, end, self.codes)
        return nn.functional.pad(bias, (0, 0, 0, stop - end))


def _embed(model: Any, ids: torch.Tensor, positions: torch.Tensor, codes: bool = False) -> torch.Tensor:
    def place(ids: torch.Tensor, start: int) -> torch.Tensor:
        written = torch.ones(len(ids), dtype=torch.bool, device=ids.device) if codes else None
        return model.decoder.embed(ids, start, written)

    return by_starts(place, ids, positions)


def _self_bias(model: Any, start: int, stop: int, layer: int, codes: bool = False) -> torch.Tensor:
    end = _last(model, stop)
    layer = min(layer, len(model.decoder.layers) - 1)  # an exit's own layer has the last one's
    bias = model.decoder.absolute_bias(start, end, codes) + model.decoder.relative_bias(layer, start, end, codes)
    return nn.functional.pad(bias, (0, stop - end, 0, stop - end))


def _last(model: Any, stop: int) -> int:
    """`stop`, or where the model's positions end: tables may be asked for beyond, `embed` is not."""
    return min(stop, model.config.max_position_embeddings)


@encoder_layer("OFAEncoderLayer")
def encoder_ofa_layer(layer: Any) -> EncoderLayer | None:
    """A layer of the encoder, but for one with a factor on the residual."""
    if layer.w_resid is not None:
        return None
    return EncoderLayer(
        joined(_attention(layer.self_attn_layer_norm, layer.self_attn, layer.self_attn_mid_layer_norm)),
        direct_norm(layer.final_layer_norm),
        _chain(layer.fc1, layer.activation_fn, layer.ffn_layer_norm, layer.fc2),
        (layer.self_attn,),
    )


def _attention(norm: Any, attention: Any, after: Any) -> AttentionParts:
    q, k, v = (direct(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj))
    out = _chain(attention.out_proj, after)
    if attention.config.scale_heads:
        out = _scaled(attention.c_attn, attention.head_dim, out)
    heads, head_dim = attention.num_heads, attention.head_dim
    return AttentionParts(direct_norm(norm), q, k, v, out, heads, head_dim, attention.scaling)


def _scaled(factors: torch.Tensor, head_dim: int, then: Module) -> Module:
    """The factors of heads, on the heads side by side."""
    spread = factors.detach().repeat_interleave(head_dim)
    return lambda x: then(x * spread)


def _chain(*modules: Any) -> Module:
    """Modules one after the other, leaving out what is None."""
    steps = [direct_norm(m) if type(m) is nn.LayerNorm else direct(m) for m in modules if m is not None]
    return steps[0] if len(steps) == 1 else functools.partial(_in_turn, steps)


def _in_turn(steps: list[Module], x: torch.Tensor) -> torch.Tensor:
    for step in steps:
        x = step(x)
    return x
