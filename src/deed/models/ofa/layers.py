"""OFA's attention and layers: BART's pre-norm, with a norm after each attention, one inside the feed-forward, a learned
factor per head, and scores that leave room for a position term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bart.modeling_bart import eager_attention_forward
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from .configuration_ofa import OFAConfig
from .stem import drop_path


class OFARelativeTable(nn.Embedding):
    """A layer's relative position bias `[buckets, heads]`, at first zero."""


class OFAAttention(nn.Module):
    """Multi-head attention on `[batch, length, d_model]`, to itself or to the encoder.

    Scores are scaled by (head width times `attn_scale_factor`)^-0.5; position biases come in with the mask.
    """

    def __init__(self, config: OFAConfig, heads: int, dropout: float, layer_idx: int | None = None) -> None:
        super().__init__()
        self.config, self.layer_idx, self.num_heads, self.dropout = config, layer_idx, heads, dropout
        self.head_dim = config.d_model // heads
        self.scaling = float(self.head_dim * config.attn_scale_factor) ** -0.5
        self.is_causal = False  # the mask says what may be seen
        if config.scale_heads:
            self.c_attn = nn.Parameter(torch.ones(heads))
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            attention_mask: `[batch or 1, heads or 1, queries, keys]` added to the scores: masks and position biases.
            key_value_states: the encoder's output, for attention to it.
            past_key_values: the layer's keys and values so far; gains those of `hidden_states`.
        """
        queries = self.split(self.q_proj(hidden_states))
        keys, values = self._keys_and_values(hidden_states, key_value_states, past_key_values)
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, weights = attend(
            self,
            queries,
            keys,
            values,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        if self.config.scale_heads:
            out = out * self.c_attn[:, None]
        return self.out_proj(out.reshape(*hidden_states.shape[:2], -1)), weights

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, length, d_model]` to `[batch, heads, length, head_dim]`."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _keys_and_values(
        self, hidden: torch.Tensor, source: torch.Tensor | None, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = isinstance(cache, EncoderDecoderCache)
        if source is not None and both and cache.is_updated.get(self.layer_idx):
            kept: Any = cache.cross_attention_cache.layers[self.layer_idx]  # type: ignore[index]
            return kept.keys, kept.values
        states = hidden if source is None else source
        keys, values = self.split(self.k_proj(states)), self.split(self.v_proj(states))
        if cache is None:
            return keys, values
        if both:
            if source is not None:
                cache.is_updated[self.layer_idx] = True
            cache = cache.self_attention_cache if source is None else cache.cross_attention_cache
        return cache.update(keys, values, self.layer_idx)


class OFALayer(GradientCheckpointingLayer):
    """What the layers of encoder and decoder share: self-attention's norms and the feed-forward."""

    def __init__(self, config: OFAConfig, side: str, layer_idx: int) -> None:
        super().__init__()
        width, inner = config.d_model, getattr(config, f"{side}_ffn_dim")
        heads, layers = getattr(config, f"{side}_attention_heads"), getattr(config, f"{side}_layers")
        rate = getattr(config, f"{side}_drop_path_rate")
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.drop_path = float(torch.linspace(0, rate, layers, device="cpu")[layer_idx])
        self.activation_fn = ACT2FN[config.activation_function]
        self.self_attn = OFAAttention(config, heads, config.attention_dropout, layer_idx)
        self.self_attn_mid_layer_norm = nn.LayerNorm(width) if config.scale_attn else None
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.ffn_layer_norm = nn.LayerNorm(inner) if config.scale_fc else None
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.w_resid = nn.Parameter(torch.ones(width)) if config.scale_resids else None

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The residual sum, with dropout and stochastic depth in training."""
        x = nn.functional.dropout(x, self.dropout, self.training)
        return residual + drop_path(x, self.drop_path, self.training)

    def attended(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
        """The self-attention block."""
        x, _ = self.self_attn(self.self_attn_layer_norm(hidden), attention_mask, **kwargs)
        if self.self_attn_mid_layer_norm is not None:
            x = self.self_attn_mid_layer_norm(x)
        return self.added(x, hidden)

    def fed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The feed-forward block."""
        residual = hidden if self.w_resid is None else self.w_resid * hidden
        return self.added(self.ffn(self.final_layer_norm(hidden)), residual)

    def ffn(self, x: torch.Tensor) -> torch.Tensor:
        """Both linear layers and what stands between them."""
        x = nn.functional.dropout(self.activation_fn(self.fc1(x)), self.activation_dropout, self.training)
        return self.fc2(x if self.ffn_layer_norm is None else self.ffn_layer_norm(x))


class OFAEncoderLayer(OFALayer):
    """A layer of the encoder: self-attention and feed-forward."""

    def __init__(self, config: OFAConfig, layer_idx: int) -> None:
        super().__init__(config, "encoder", layer_idx)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`[batch, source, d_model]` to the same. `attention_mask` is added to the scores: position biases are part of it."""
        return self.fed(self.attended(hidden_states, attention_mask, **kwargs))


class OFADecoderLayer(OFALayer):
    """A layer of the decoder: self-attention, attention to the encoder, feed-forward."""

    def __init__(self, config: OFAConfig, layer_idx: int) -> None:
        super().__init__(config, "decoder", layer_idx)
        width, heads = config.d_model, config.decoder_attention_heads
        self.cross_attn = OFAAttention(config, heads, config.attention_dropout, layer_idx)
        self.cross_attn_mid_layer_norm = nn.LayerNorm(width) if config.scale_attn else None
        self.cross_attn_layer_norm = nn.LayerNorm(width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`[batch, length, d_model]` to the same.

        Args:
            hidden_states: the layer's input.
            attention_mask: added to the self-attention's scores: position biases are part of it.
            encoder_hidden_states: `[batch, source, d_model]`.
            encoder_attention_mask: likewise, of the attention to the encoder.
            past_key_values: keys and values of both attentions.
            kwargs: for the attentions.
        """
        hidden = self.attended(hidden_states, attention_mask, past_key_values=past_key_values, **kwargs)
        x, _ = self.cross_attn(
            self.cross_attn_layer_norm(hidden),
            encoder_attention_mask,
            key_value_states=encoder_hidden_states,
            past_key_values=past_key_values,
            **kwargs,
        )
        if self.cross_attn_mid_layer_norm is not None:
            x = self.cross_attn_mid_layer_norm(x)
        return self.fed(self.added(x, hidden))


class OFAPreTrainedModel(PreTrainedModel):
    """Fresh weights, and what Transformers asks of every model."""

    config: OFAConfig
    config_class = OFAConfig
    base_model_prefix = "ofa"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OFAEncoderLayer", "OFADecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    # Index buffers of the original are computed here; frozen batch norms count no batches.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"version",
        r"_rp_bucket$",
        r"image_position_idx$",
        r"num_batches_tracked$",
    ]
    _keys_to_ignore_on_load_missing = [r"num_batches_tracked$"]  # noqa: RUF012

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("version", "token_rp_bucket", "image_rp_bucket", "image_position_idx"):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: Transformers is to initialize all modules, also those without parameters of their own."""
        return False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OFARelativeTable):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, DetrFrozenBatchNorm2d):
            for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                init.constant_(getattr(module, name), value)
        elif isinstance(module, OFAAttention) and module.config.scale_heads:
            init.ones_(module.c_attn)
        elif isinstance(module, OFALayer) and module.w_resid is not None:
            init.ones_(module.w_resid)


def masked(bias: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """Position bias `[1, heads, q, k]` with keys masked: `keep` is bool and broadcasts to `[batch, heads, q, k]`."""
    return bias if keep is None else bias.masked_fill(~keep, torch.finfo(bias.dtype).min)


__all__ = [
    "OFAAttention",
    "OFADecoderLayer",
    "OFAEncoderLayer",
    "OFAPreTrainedModel",
    "OFARelativeTable",
    "masked",
]
