"""Moonshine, MoonshineStreaming, Cohere ASR and Canary: pre-norm layers over the states of an audio encoder.

Read in transformers 5.23, models/{moonshine,moonshine_streaming,cohere_asr,canary}/modeling_*.py. The encoder shortens its
input, so the mask that the decoder sees is in its output; where its width is not the decoder's, the decoder projects it.
Cohere ASR and Canary add a table of positions to the tokens; the Moonshines turn queries and keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .base import DecoderFamily, register_family
from .parts import AttentionParts, LayerParts, Module, Rotate, direct, direct_norm, joined, plain
from .rotary import RotaryFamily, rotation

LAYERS = ("MoonshineDecoderLayer", "MoonshineStreamingDecoderLayer", "CohereAsrDecoderLayer", "CanaryDecoderLayer")


@register_family("CohereAsrForConditionalGeneration", "CanaryForConditionalGeneration")
class SpeechFamily(DecoderFamily):
    """Cohere ASR and Canary."""

    passes: tuple[str, ...] = ("input_features", "audio_chunk_index")

    def decoder(self, model: Any) -> nn.Module:
        """`model.model.decoder`."""
        return model.model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        """Its layers."""
        return model.model.decoder.layers

    def d_model(self, model: Any) -> int:
        """`hidden_size` of the decoder."""
        return model.model.decoder.config.hidden_size

    def heads(self, model: Any) -> tuple[int, int]:
        """`num_attention_heads`, and what one of them is wide."""
        attention = self.layers(model)[0].self_attn
        return model.model.decoder.config.num_attention_heads, attention.head_dim  # type: ignore[union-attr, return-value]

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states in the decoder's width, and the encoder's own mask.

        Args:
            model: the model.
            encoder_outputs: what its encoder returned.
            mask: of the sound; not used.
        """
        states, project = encoder_outputs[0], getattr(model.model.decoder, "proj", None)
        return states if project is None else project(states), encoder_outputs.attention_mask

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and positions, normed.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        decoder = model.model.decoder
        hidden = decoder.embed_tokens(ids)
        return decoder.embedding_layernorm(hidden + decoder.pos_emb(positions).to(hidden.dtype))

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`."""
        self_mask, _, encoder_hidden, encoder_mask, cache, _ = given
        return layer(hidden, self_mask, encoder_hidden, encoder_mask, past_key_values=cache)

    def rotate(self, model: Any) -> Rotate | None:
        """What is done to queries and keys by their positions: nothing."""
        return None

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every layer."""
        found, rotate = [], self.rotate(model)
        layers: list[Any] = list(self.layers(model))
        for layer in layers:
            own, cross = layer.self_attn, layer.encoder_attn
            if type(layer).__name__ not in LAYERS or not plain((layer, own, cross)):
                return None
            attention = _attention(layer.input_layernorm, own, rotate)
            found.append(
                LayerParts(
                    joined(attention) if own.num_key_value_groups == 1 else attention,
                    _attention(layer.post_attention_layernorm, cross),
                    direct_norm(layer.final_layernorm),
                    self.feed_forward(layer.mlp),
                )
            )
        return found

    def feed_forward(self, mlp: Any) -> Module:
        """A layer's feed-forward as a function."""
        if not plain([mlp]):
            return mlp
        up, act, down = direct(mlp.fc1), direct(mlp.activation_fn), direct(mlp.fc2)
        return lambda x: down(act(up(x)))

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `encoder_attn.k_proj` and `.v_proj`."""
        attention = layer.encoder_attn
        shape = (*encoder_hidden.shape[:2], -1, attention.head_dim)
        keys = direct(attention.k_proj)(encoder_hidden).view(shape).transpose(1, 2)
        return keys, direct(attention.v_proj)(encoder_hidden).view(shape).transpose(1, 2)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The decoder's `norm`."""
        return model.model.decoder.norm(hidden)

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`proj_out`."""
        return model.proj_out(hidden)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The norm, and the head as a bare function."""
        return direct_norm(model.model.decoder.norm), direct(model.proj_out)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`proj_out`, no scale."""
        return model.proj_out.weight, model.proj_out.bias, 1.0


@register_family("MoonshineForConditionalGeneration", "MoonshineStreamingForConditionalGeneration")
class MoonshineFamily(RotaryFamily, SpeechFamily):
    """Moonshine and MoonshineStreaming: rotary positions, a gated feed-forward."""

    passes: tuple[str, ...] = ("input_values",)

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states, in MoonshineStreaming with positions and projected, and the encoder's own mask.

        Args:
            model: the model.
            encoder_outputs: what its encoder returned.
            mask: of the sound; not used.
        """
        decoder, states = model.model.decoder, encoder_outputs[0]
        if hasattr(decoder, "pos_emb"):
            places = torch.arange(states.shape[1], device=states.device)
            states = decoder.proj(states + decoder.pos_emb(places))  # the model adds them in place, at every call
        return states, encoder_outputs.attention_mask

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens alone.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: not used.
        """
        return model.model.decoder.embed_tokens(ids)

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`, with the cosines and sines of its positions."""
        self_mask, _, encoder_hidden, encoder_mask, cache, positions = given
        turned = {"past_key_values": cache, "position_embeddings": self.rotary(hidden, positions)}
        return layer(hidden, self_mask, encoder_hidden, encoder_mask, **turned)

    def rotate(self, model: Any) -> Rotate | None:
        """Queries and keys turned by their positions."""
        return rotation(model.model.decoder.rotary_emb, self.layers(model)[0].self_attn)

    def parts(self, model: Any) -> list[LayerParts] | None:
        """As `SpeechFamily.parts`; None, too, where the angles depend on the length."""
        return None if self.rotate(model) is None else super().parts(model)

    def feed_forward(self, mlp: Any) -> Module:
        """A layer's gated feed-forward as a function."""
        if not plain([mlp]):
            return mlp
        up, act, down = direct(mlp.fc1), direct(mlp.activation_fn), direct(mlp.fc2)

        def gated(x: torch.Tensor) -> torch.Tensor:
            hidden, gate = up(x).chunk(2, -1)
            return down(act(gate) * hidden)

        return gated


def _attention(norm: Any, attention: Any, rotate: Rotate | None = None) -> AttentionParts:
    q, k, v, out = (direct(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj))
    heads = attention.config.num_attention_heads
    return AttentionParts(direct_norm(norm), q, k, v, out, heads, attention.head_dim, attention.scaling, rotate=rotate)
