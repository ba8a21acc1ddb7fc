"""T5 and the decoders of its build: pre-norm blocks, a relative position bias, a final RMS norm, a head that may be scaled.

Read in transformers 5.23, models/t5/modeling_t5.py. v1.0 (tied, ReLU) and v1.1 / Flan / mT5 / MADLAD-400 (untied, gated)
differ only in their weights and in `config.scale_decoder_outputs`. LongT5 differs in its encoder alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deed.kernels.chain import RowNorm

from .base import DecoderFamily, register_family
from .chains import Chains, Modules, chains_of, row_norm
from .encoders.layer import EncoderLayer, encoder_layer
from .encoders.stretches import stretches
from .parts import AttentionParts, LayerParts, Module, activated, direct, direct_rms_norm, is_bare, joined, plain

# Prefixes of the classes (`…Block`, `…LayerNorm`, `…DenseActDense`) that compute what T5's of that name do.
BUILDS = ("T5", "MT5", "UMT5", "LongT5", "Udop", "Pop2Piano", "Pix2Struct", "Pix2StructText")


@register_family("T5ForConditionalGeneration", "MT5ForConditionalGeneration", "LongT5ForConditionalGeneration")
class T5Family(DecoderFamily):
    """T5, mT5 and LongT5.

    Attributes:
        scaled_by: the field of the configuration that says whether the head's input is scaled by d_model^-0.5; None: never.
        attentions: names of a block's two attention modules in their sublayers.
        projections: names of an attention's query, key, value and output projection.
    """

    has_bias = True
    scaled_by: str | None = "scale_decoder_outputs"
    attentions = ("SelfAttention", "EncDecAttention")
    projections = ("q", "k", "v", "o")

    def decoder(self, model: Any) -> nn.Module:
        """`model.decoder`."""
        return model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        """Its blocks."""
        return model.decoder.block

    def sublayers(self, block: Any) -> tuple[Any, Any, Any]:
        """A block's self-attention, cross-attention and feed-forward, each with its `layer_norm`."""
        return tuple(block.layer)

    def heads(self, model: Any) -> tuple[int, int]:
        """`num_heads` and `d_kv`."""
        config = model.decoder.config
        return config.num_heads, config.d_kv

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens alone: positions act through the scores.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        return model.decoder.dropout(model.decoder.embed_tokens(ids))

    def embedding(self, model: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """A look-up in the table, where the module does nothing else."""
        table, dropout = model.decoder.embed_tokens, model.decoder.dropout
        if type(table) is not nn.Embedding or not is_bare(table) or table.max_norm is not None or not plain([dropout]):
            return super().embedding(model)
        return lambda ids, positions: torch.embedding(table.weight, ids)

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        """The first block's, which serves all, or with `bias_per_layer` the layer's own.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
            layer: 0-based.
        """
        block = self.layers(model)[layer if self.bias_per_layer else 0]
        attention = getattr(self.sublayers(block)[0], self.attentions[0])
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
        if any(type(block).__name__.removesuffix("Block") not in BUILDS for block in blocks):
            return None
        found = []
        for block in blocks:
            self_attn, cross, ffn = self.sublayers(block)
            own, other = getattr(self_attn, self.attentions[0]), getattr(cross, self.attentions[1])
            # In fp16 the blocks clamp what overflows.
            if not plain((block, self_attn, own, cross, other, ffn)) or ffn.layer_norm.weight.dtype == torch.float16:
                return None
            found.append(
                LayerParts(
                    joined(self._attention(self_attn.layer_norm, own)),
                    self._attention(cross.layer_norm, other),
                    _norm(ffn.layer_norm),
                    _ffn(ffn.DenseReluDense),
                    chains=self._chains(block),
                )
            )
        return found

    def _chains(self, block: Any) -> Chains | None:
        self_attn, cross, ffn = self.sublayers(block)
        own, other, dense = (
            getattr(self_attn, self.attentions[0]),
            getattr(cross, self.attentions[1]),
            ffn.DenseReluDense,
        )
        if not _known_ffn(dense):
            return None
        norms = _row_norm(self_attn.layer_norm), _row_norm(cross.layer_norm), _row_norm(ffn.layer_norm)
        q, k, v, out = (getattr(own, name) for name in self.projections)
        cross_q, cross_out = getattr(other, self.projections[0]), getattr(other, self.projections[3])
        return chains_of(block, Modules(norms, (q, k, v), out, cross_q, cross_out, _up(dense), dense.act, dense.wo))

    def _attention(self, norm: Any, attention: Any) -> AttentionParts:
        q, k, v, out = (direct(getattr(attention, name)) for name in self.projections)
        heads, head_dim = attention.n_heads, attention.key_value_proj_dim
        return AttentionParts(_norm(norm), q, k, v, out, heads, head_dim, attention.scaling)

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By the key and value projection of the cross-attention."""
        attention = getattr(self.sublayers(layer)[1], self.attentions[1])
        shape = (*encoder_hidden.shape[:2], -1, attention.key_value_proj_dim)
        key, value = (direct(getattr(attention, name)) for name in self.projections[1:3])
        return key(encoder_hidden).view(shape).transpose(1, 2), value(encoder_hidden).view(shape).transpose(1, 2)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The final RMS norm."""
        return model.decoder.dropout(model.decoder.final_layer_norm(hidden))

    def lm_head(self, model: Any) -> Any:
        """The projection to the vocabulary."""
        return model.lm_head

    def scale(self, model: Any) -> float:
        """What the head's input is multiplied by."""
        # vars(): the configuration's own attribute lookup takes as long as the projection. MT5Config has no such field.
        scaled = self.scaled_by is not None and vars(model.config).get(self.scaled_by, False)
        return model.config.d_model**-0.5 if scaled else 1.0

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`lm_head`, its input scaled where it is tied."""
        scale = self.scale(model)
        return self.lm_head(model)(hidden if scale == 1.0 else hidden * scale)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The two as bare functions."""
        if model.decoder.dropout.training:
            return super().norm_and_head(model)
        head, scale = direct(self.lm_head(model)), self.scale(model)
        scaled = head if scale == 1.0 else lambda x: head(x * scale)
        return _norm(model.decoder.final_layer_norm), scaled

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`lm_head`, no bias, the scale."""
        return self.lm_head(model).weight, None, self.scale(model)


@register_family("UMT5ForConditionalGeneration")
class UMT5Family(T5Family):
    """UMT5: every layer has a position bias of its own, which its `forward` works out by itself."""

    bias_per_layer = True
    scaled_by = "tie_word_embeddings"

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A block by its own `forward`, which takes no bias."""
        self_mask, _, encoder_hidden, encoder_mask, cache, _ = given
        return layer(hidden, self_mask, encoder_hidden, encoder_mask, past_key_values=cache)


@register_family("UdopForConditionalGeneration")
class UdopFamily(T5Family):
    """UDOP: patches of the page are appended to the text in the encoder, and with them the mask."""

    scaled_by = "tie_word_embeddings"
    passes: tuple[str, ...] = ("bbox", "pixel_values", "visual_bbox")

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states and its own mask.

        Args:
            model: the model.
            encoder_outputs: what its encoder returned.
            mask: of the text alone; not used.
        """
        return encoder_outputs[0], encoder_outputs.attention_mask


@register_family("Pop2PianoForConditionalGeneration")
class Pop2PianoFamily(T5Family):
    """Pop2Piano: T5 that reads a spectrogram."""

    passes: tuple[str, ...] = ("input_features",)


@register_family("Pix2StructForConditionalGeneration")
class Pix2StructFamily(T5Family):
    """Pix2Struct: T5's blocks under longer names; the head is a part of the decoder and never scaled."""

    scaled_by = None
    attentions = ("attention", "attention")
    projections = ("query", "key", "value", "output")
    passes: tuple[str, ...] = ("flattened_patches",)

    def layers(self, model: Any) -> nn.ModuleList:
        """The decoder's layers."""
        return model.decoder.layer

    def sublayers(self, block: Any) -> tuple[Any, Any, Any]:
        """`self_attention`, `encoder_decoder_attention` and `mlp`."""
        return block.self_attention, block.encoder_decoder_attention, block.mlp

    def d_model(self, model: Any) -> int:
        """Width of the text model."""
        return model.decoder.config.hidden_size

    def lm_head(self, model: Any) -> Any:
        """The decoder's own."""
        return model.decoder.lm_head


@encoder_layer("T5Block", "MT5Block", "UMT5Block", "Pop2PianoBlock", "UdopBlock")
def encoder_block(block: Any) -> EncoderLayer | None:
    """A block of an encoder. UMT5's makes a bias of its own in every layer, the others' first one makes that of all."""
    if len(block.layer) != 2:  # a decoder's
        return None
    attends, feeds = block.layer
    attention, own_bias, dense = attends.SelfAttention, type(block).__name__ == "UMT5Block", feeds.DenseReluDense
    whole = None
    if _known_ffn(dense):
        norms = _row_norm(attends.layer_norm), _row_norm(feeds.layer_norm)
        qkv = attention.q, attention.k, attention.v
        whole = stretches(norms, qkv, attention.o, _up(dense), dense.act, dense.wo)
    parts = T5Family()._attention(attends.layer_norm, attention)
    return EncoderLayer(
        parts if whole is not None else joined(parts),
        _norm(feeds.layer_norm),
        _ffn(dense),
        (attention, attends, feeds, attends.dropout, feeds.dropout),
        bias=(lambda n: attention.compute_bias(n, n)) if attention.has_relative_attention_bias else None,
        shares_bias=not own_bias,
        values=0 if own_bias else 3,
        stretches=whole,
    )


@encoder_layer("Pix2StructVisionLayer")
def encoder_picture_layer(layer: Any) -> EncoderLayer:
    """Pix2Struct's encoder."""
    attention = Pix2StructFamily()._attention(layer.pre_attention_layer_norm, layer.attention)
    ffn, holds = _ffn(layer.mlp), (layer.attention, layer.mlp, layer.mlp.dropout)
    return EncoderLayer(joined(attention), _norm(layer.pre_mlp_layer_norm), ffn, holds, values=2)


def _norm(norm: Any) -> Module:
    known = type(norm).__name__.removesuffix("LayerNorm") in BUILDS
    return direct_rms_norm(norm, norm.variance_epsilon) if known else norm


def _row_norm(norm: Any) -> RowNorm | None:
    known = type(norm).__name__.removesuffix("LayerNorm") in BUILDS
    return row_norm(norm, norm.variance_epsilon) if known else None


def _known_ffn(dense: Any) -> bool:
    known = type(dense).__name__.removesuffix("DenseActDense").removesuffix("DenseGatedActDense") in BUILDS
    return known and plain([dense])


def _up(dense: Any) -> list[Any]:
    return [getattr(dense, name) for name in (("wi",) if hasattr(dense, "wi") else ("wi_0", "wi_1"))]


def _ffn(ffn: Any) -> Module:
    """The feed-forward without its dropout and its casts, where there is nothing to cast."""
    name, weight = type(ffn).__name__, getattr(ffn.wo, "weight", None)
    if not plain([ffn]) or not isinstance(weight, torch.Tensor) or weight.dtype not in (torch.float32, torch.float64):
        return ffn
    down = direct(ffn.wo)
    if name.removesuffix("DenseActDense") in BUILDS:
        up = activated(ffn.wi, ffn.act)
        return lambda x: down(up(x))
    if name.removesuffix("DenseGatedActDense").removesuffix("VisionMlp") in BUILDS:
        gate, linear = activated(ffn.wi_0, ffn.act), direct(ffn.wi_1)
        return lambda x: down(gate(x) * linear(x))
    return ffn
