"""OFA's decoder: position biases in self-attention and towards the encoder, and rows that write images as codes.

Positions enter through the attention scores alone (unless `disable_entangle` is off), and a bias is a function of
positions, not of tokens: rows of a batch share it, save that rows of image codes have one of their own kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_ofa import OFAConfig
from .layers import OFAAttention, OFADecoderLayer, OFAPreTrainedModel, OFARelativeTable, masked
from .positions import code_ids, image_relative, look_up, position_scores, token_relative

FIRST = 32  # positions that a generation's first tables have; they double


@dataclass
class BiasTables:
    """The biases of positions 0..length, kept on a generation's cache.

    Attributes:
        self_attn: per layer `[1, heads, length, length]`.
        cross: `[1, heads, length, source]`.
    """

    self_attn: list[torch.Tensor]
    cross: torch.Tensor


class OFADecoder(OFAPreTrainedModel):
    """Tokens and the encoder's output to features `[batch, length, d_model]`; `output_projection` is its head."""

    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": OFADecoderLayer,
        "attentions": OutputRecorder(OFAAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(OFAAttention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: OFAConfig) -> None:
        super().__init__(config)
        width, heads = config.d_model, config.decoder_attention_heads
        side = 2 * config.image_bucket_size - 1
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.pos_scaling = float(width / heads * config.attn_scale_factor) ** -0.5
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.self_pos_q_linear = nn.Linear(width, width)
        self.self_pos_k_linear = nn.Linear(width, width)
        self.cross_pos_q_linear = nn.Linear(width, width)
        self.cross_pos_k_linear = nn.Linear(width, width)
        self.code_layernorm_embedding = nn.LayerNorm(width) if config.code_layernorm_embedding else None
        self.layers = nn.ModuleList([OFADecoderLayer(config, i) for i in range(config.decoder_layers)])
        self.layer_norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)
        self.token_rel_pos_table_list = nn.ModuleList(
            [OFARelativeTable(2 * config.token_bucket_size - 1, heads) for _ in self.layers]
        )
        self.image_rel_pos_table_list = nn.ModuleList([OFARelativeTable(side * side + 3, heads) for _ in self.layers])
        self.gradient_checkpointing = False
        self.post_init()

    # -- positions ------------------------------------------------------------------------------------------------

    def positions(self, start: int, stop: int, codes: bool = False) -> torch.Tensor:
        """Embeddings of target positions start..stop, before their norm: `[1, stop - start, d_model]`.

        Args:
            start: first position.
            stop: position after the last.
            codes: whether they are those of an image written as codes.
        """
        device = self.embed_positions.weight.device
        if codes:
            return self.embed_image_positions(self._code_ids(stop)[start:])[None]
        return self.embed_positions(torch.arange(start, stop, device=device))[None]

    def _code_ids(self, length: int) -> torch.Tensor:
        return code_ids(length, self.config, self.embed_positions.weight.device)

    def _placed(self, start: int, stop: int, codes: bool) -> torch.Tensor:
        return (self.image_pos_ln if codes else self.pos_ln)(self.positions(start, stop, codes))

    def absolute_bias(self, start: int, stop: int, codes: bool = False) -> torch.Tensor:
        """What every layer adds to the scores of positions start..stop against 0..stop: `[1, heads, stop - start, stop]`.

        Args:
            start: first query position.
            stop: position after the last query and key.
            codes: whether they are those of an image written as codes.
        """
        placed = self._placed(0, stop, codes)
        queries, keys = self.self_pos_q_linear(placed[:, start:]), self.self_pos_k_linear(placed)
        return position_scores(queries, keys, self.config.decoder_attention_heads, self.pos_scaling)

    def relative_bias(self, layer: int, start: int, stop: int, codes: bool = False) -> torch.Tensor:
        """What layer `layer` (from 0) adds beside that: `[1, heads, stop - start, stop]`.

        Args:
            layer: from 0.
            start: first query position.
            stop: position after the last query and key.
            codes: whether they are those of an image written as codes.
        """
        table: Any = (self.image_rel_pos_table_list if codes else self.token_rel_pos_table_list)[layer]
        if codes:
            ids = self._code_ids(stop)
            return look_up(table, image_relative(ids[start:], ids, self.config.image_bucket_size))
        return look_up(table, token_relative(start, stop, self.config, table.weight.device))

    def cross_bias(self, source: torch.Tensor, start: int, stop: int, codes: bool = False) -> torch.Tensor:
        """What every layer adds to the scores of positions start..stop against the encoder's: `[1, heads, q, source]`.

        Args:
            source: the encoder's `position_embeddings`, of which the first row speaks for all: `[batch, source, d_model]`.
        """
        queries = self.cross_pos_q_linear(self._placed(start, stop, codes))
        keys = self.cross_pos_k_linear(source[:1])
        return position_scores(queries, keys, self.config.decoder_attention_heads, self.pos_scaling)

    def biases(
        self, source: torch.Tensor, start: int, stop: int, codes: bool, cache: Any = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Per layer `[1, heads, q, stop]`, and `[1, heads, q, source]`, for positions start..stop. A generation's cache
        keeps them: the encoder's positions would else be projected anew for every token.

        Args:
            source: the encoder's `position_embeddings`, `[batch, source, d_model]`.
            start: first query position.
            stop: position after the last query and key.
            codes: whether they are those of an image written as codes.
            cache: of the generation; None keeps nothing.
        """
        if cache is None or torch.is_grad_enabled():
            absolute = self.absolute_bias(start, stop, codes)
            self_attn = [absolute + self.relative_bias(i, start, stop, codes) for i in range(len(self.layers))]
            return self_attn, self.cross_bias(source, start, stop, codes)
        kept: dict[bool, BiasTables] = cache.__dict__.setdefault("ofa_bias_tables", {})
        if codes not in kept or kept[codes].cross.shape[2] < stop:
            length = max(stop, min(max(2 * stop, FIRST), self.config.max_position_embeddings))
            self_attn, cross = self.biases(source, 0, length, codes)
            kept[codes] = BiasTables(self_attn, cross)
        tables = kept[codes]
        return [bias[:, :, start:stop, :stop] for bias in tables.self_attn], tables.cross[:, :, start:stop]

    # -- forward --------------------------------------------------------------------------------------------------

    def embed(self, ids: torch.Tensor, start: int, code_masks: torch.Tensor | None = None) -> torch.Tensor:
        """`[batch, q]` ids at positions start.. to the first layer's input `[batch, q, d_model]`.

        Args:
            code_masks: `[batch]` bool, rows that are images; None: no row is.
        """
        return self._dressed(self.embed_tokens(ids) * self.embed_scale, start, code_masks)

    def _dressed(self, x: torch.Tensor, start: int, code_masks: torch.Tensor | None) -> torch.Tensor:
        code, stop = None if code_masks is None else code_masks.to(torch.bool)[:, None, None], start + x.shape[1]
        if stop > self.config.max_position_embeddings:
            raise ValueError(
                f"the decoder is asked for {stop} positions, more than max_position_embeddings "
                f"{self.config.max_position_embeddings}"
            )
        if not self.config.disable_entangle:
            positions = self.positions(start, stop)
            if code is not None:
                positions = torch.where(code, self.positions(start, stop, codes=True), positions)
            x = x + positions
        if self.layernorm_embedding is not None:
            normed = self.layernorm_embedding(x)
            if code is not None and self.code_layernorm_embedding is not None:
                normed = torch.where(code, self.code_layernorm_embedding(x), normed)
            x = normed
        return nn.functional.dropout(x, self.config.dropout, self.training)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        position_embeddings: torch.Tensor | None = None,
        code_masks: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            input_ids: `[batch, q]`, those after what the cache holds; or `inputs_embeds` `[batch, q, d_model]`.
            attention_mask: `[batch, length so far]`, 1 keeps; None keeps all (padding stands at the right).
            encoder_hidden_states: `[batch, source, d_model]`.
            encoder_attention_mask: `[batch, source]`, 1 keeps; None keeps all.
            position_embeddings: the encoder's, `[batch, source, d_model]`.
            code_masks: `[batch]` bool, rows that write an image as codes; None: no row does.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give the decoder input_ids or inputs_embeds, one of them")
        if encoder_hidden_states is None or position_embeddings is None:
            raise ValueError("the decoder needs the encoder's last_hidden_state and position_embeddings")
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        start = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        hidden = self._dressed(x * self.embed_scale, start, code_masks)
        self_attn, cross = self._masked_biases(
            start, hidden, position_embeddings, attention_mask, encoder_attention_mask, code_masks, past_key_values
        )
        for i, layer in enumerate(self.layers):
            if self.training and self.config.decoder_layerdrop and torch.rand(()) < self.config.decoder_layerdrop:
                continue
            hidden = layer(
                hidden, self_attn[i], encoder_hidden_states, cross, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(hidden), past_key_values=past_key_values
        )

    def _masked_biases(
        self,
        start: int,
        hidden: torch.Tensor,
        source: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_attention_mask: torch.Tensor | None,
        code_masks: torch.Tensor | None,
        cache: Any,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The biases of both kinds of rows, with what must not be seen masked."""
        stop = start + hidden.shape[1]
        code = None if code_masks is None or not bool(code_masks.any()) else code_masks.to(torch.bool)
        all_code = code is not None and bool(code.all())
        self_attn, cross = self.biases(source, start, stop, all_code, cache)
        if code is not None and not all_code:
            image, image_cross = self.biases(source, start, stop, True, cache)
            here = code[:, None, None, None]
            self_attn = [torch.where(here, a, b) for a, b in zip(image, self_attn, strict=True)]
            cross = torch.where(here, image_cross, cross)
        size = stop if cache is None else max(stop, cache.get_mask_sizes(hidden.shape[1], 0)[0])
        visible = _visible(attention_mask, start, stop, size, hidden.device)
        # A static cache hands out keys that are not there yet.
        self_attn = [masked(nn.functional.pad(bias, (0, size - stop)), visible) for bias in self_attn]
        if encoder_attention_mask is not None and not bool(encoder_attention_mask.all()):
            cross = masked(cross, encoder_attention_mask.to(torch.bool)[:, None, None, :])
        return self_attn, cross


def _visible(
    attention_mask: torch.Tensor | None, start: int, stop: int, size: int, device: torch.device
) -> torch.Tensor | None:
    """Which of `size` keys the positions start..stop may see, `[batch or 1, 1, stop - start, size]` bool; None: all.

    Args:
        attention_mask: `[batch, stop or more]`, 1 keeps, or a whole mask as `generate()` makes for static caches,
            `[batch, 1, stop - start, size]`, bool or additive.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
    visible = None
    if stop - start > 1 or size > stop:
        at = torch.arange(size, device=device)
        visible = (at[None, :] <= at[start:stop, None])[None, None]
    if attention_mask is not None and not bool(attention_mask.all()):
        keys = nn.functional.pad(attention_mask[:, :stop].to(torch.bool), (0, size - stop))[:, None, None, :]
        visible = keys if visible is None else visible & keys
    return visible


__all__ = ["OFADecoder"]
