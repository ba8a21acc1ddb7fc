"""T5Gemma and T5Gemma 2: rotary positions, windows in some layers, norms before and after each part, capped logits.

Read in transformers 5.23, models/{t5gemma,t5gemma2}/modeling_*.py. Layers are run by their own `forward`: T5Gemma caps the
scores of its attention, in T5Gemma 2 self- and cross-attention share one softmax, and heads share keys and values in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deed.errors import DeedConfigError

from .base import register_family
from .parts import Module, direct
from .rotary import RotaryFamily


@register_family("T5GemmaForConditionalGeneration")
class T5GemmaFamily(RotaryFamily):
    """T5Gemma."""

    def decoder(self, model: Any) -> nn.Module:
        """`model.model.decoder`."""
        return model.model.decoder

    def layers(self, model: Any) -> nn.ModuleList:
        """Its layers."""
        return model.model.decoder.layers

    def d_model(self, model: Any) -> int:
        """`hidden_size` of the decoder."""
        return model.config.decoder.hidden_size

    def heads(self, model: Any) -> tuple[int, int]:
        """`num_attention_heads` and `head_dim` of the decoder."""
        return model.config.decoder.num_attention_heads, model.config.decoder.head_dim

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens, times the root of their width.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: not used.
        """
        decoder = model.model.decoder
        hidden = decoder.embed_tokens(ids)
        # The factor in the model's dtype, as the model rounds it.
        return decoder.dropout(hidden * torch.tensor(self.d_model(model) ** 0.5, dtype=hidden.dtype))

    def window(self, model: Any, layer: int) -> int | None:
        """`sliding_window` in the layers that the configuration names.

        Args:
            model: the model.
            layer: 0-based.
        """
        config = model.config.decoder
        return config.sliding_window if config.layer_types[layer] == "sliding_attention" else None

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`, with the cosines and sines of its positions."""
        self_mask, _, encoder_hidden, encoder_mask, cache, positions = given
        turns = self.rotary(hidden, positions)
        return layer(hidden, turns, self_mask, positions, cache, True, encoder_hidden, encoder_mask)

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `cross_attn.k_proj` and `.v_proj`."""
        return _keys_and_values(layer.cross_attn, encoder_hidden)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The decoder's `norm`."""
        return model.model.decoder.dropout(model.model.decoder.norm(hidden))

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`lm_head`, its logits capped where the configuration says so."""
        return _capped(model.lm_head(hidden), model.config.decoder.final_logit_softcapping)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The norm, and the head as a bare function."""
        if model.model.decoder.dropout.training:
            return super().norm_and_head(model)
        head, cap = direct(model.lm_head.out_proj), model.config.decoder.final_logit_softcapping
        return model.model.decoder.norm, lambda x: _capped(head(x), cap)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`lm_head.out_proj`, no bias, no scale.

        Raises:
            DeedConfigError: the logits are capped, so that they are no linear function of the features.
        """
        if model.config.decoder.final_logit_softcapping is not None:
            raise DeedConfigError(
                "this model caps its logits (final_logit_softcapping), and approximations of its head do not; use "
                'exit_check="plain"'
            )
        return model.lm_head.out_proj.weight, None, 1.0


@register_family("T5Gemma2ForConditionalGeneration")
class T5Gemma2Family(T5GemmaFamily):
    """T5Gemma 2: one attention to both what was decoded and the source; rotary positions differ by the kind of layer."""

    passes: tuple[str, ...] = ("pixel_values",)

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens; the embedding scales them by itself.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: not used.
        """
        return model.model.decoder.dropout(model.model.decoder.embed_tokens(ids))

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`, with one mask over what was decoded and the source."""
        self_mask, _, encoder_hidden, encoder_mask, cache, positions = given
        (rows, new, _), source = hidden.shape, encoder_hidden.shape[1]
        mask = _side_by_side((self_mask, encoder_mask), (cache.get_seq_length() + new, source), rows, new)
        turns = self.rotary(hidden, positions, layer.attention_type)
        return layer(hidden, turns, mask, positions, cache, True, encoder_hidden)

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By the layer's one attention, the keys normed."""
        keys, values = _keys_and_values(layer.self_attn, encoder_hidden)
        return layer.self_attn.k_norm(keys), values


def _keys_and_values(attention: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    keys = direct(attention.k_proj)(hidden).view(shape).transpose(1, 2)
    return keys, direct(attention.v_proj)(hidden).view(shape).transpose(1, 2)


def _capped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _side_by_side(
    masks: tuple[torch.Tensor | None, torch.Tensor | None], widths: tuple[int, int], rows: int, new: int
) -> torch.Tensor | None:
    """The two masks as one, `[rows, 1, new, sum of widths]`; None where neither hides anything.

    Args:
        masks: bool or numbers to be added, each `[rows or 1, 1, new or 1, its width]`, or None.
        widths: of what they are over.
        rows: of the block.
        new: its positions.
    """
    like = next((mask for mask in masks if mask is not None), None)
    if like is None:
        return None
    seen = like.new_ones(1) if like.dtype == torch.bool else like.new_zeros(1)
    whole = [seen if mask is None else mask for mask in masks]
    return torch.cat([m.expand(rows, 1, new, w) for m, w in zip(whole, widths, strict=True)], -1)
