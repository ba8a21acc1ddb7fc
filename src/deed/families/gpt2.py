"""GPT-2 as a decoder with cross-attention, inside composite models (`composite.py`).

Read in transformers 5.23, models/gpt2/modeling_gpt2.py. Query, key and value are one `Conv1D`, whose weight is the transpose
of a linear layer's; those of the source are another, for keys and values.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from .base import DecoderFamily
from .parts import AttentionParts, LayerParts, Module, direct, direct_norm, plain


class GPT2Family(DecoderFamily):
    """GPT-2, as the model's `decoder`."""

    def decoder(self, model: Any) -> nn.Module:
        """`model.decoder.transformer`."""
        return model.decoder.transformer

    def layers(self, model: Any) -> nn.ModuleList:
        """Its blocks."""
        return model.decoder.transformer.h

    def d_model(self, model: Any) -> int:
        """`hidden_size` of the decoder."""
        return model.decoder.config.hidden_size

    def heads(self, model: Any) -> tuple[int, int]:
        """`num_attention_heads`, and hidden_size over it."""
        config = model.decoder.config
        return config.num_attention_heads, config.hidden_size // config.num_attention_heads

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and positions.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        decoder = model.decoder.transformer
        return decoder.drop(decoder.wte(ids) + decoder.wpe(positions))

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A block by its own `forward`."""
        self_mask, _, encoder_hidden, encoder_mask, cache, _ = given
        return layer(hidden, cache, self_mask, encoder_hidden, encoder_attention_mask=encoder_mask, use_cache=True)

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every block; None where eager attention computes in float32."""
        found = []
        blocks: list[Any] = list(self.layers(model))
        for block in blocks:
            own, cross = block.attn, block.crossattention
            # A block of somebody's own may do more than its modules.
            if not type(block).__module__.startswith("transformers.") or not plain((block, own, cross, block.mlp)):
                return None
            if own.reorder_and_upcast_attn and self.attention(model) == "eager":
                return None
            q, k, v = (functools.partial(_share, own.c_attn, 3, i) for i in range(3))
            self_attn = _attention(block.ln_1, own, (q, k, v), _bare(own.c_attn))
            k, v = (functools.partial(_share, cross.c_attn, 2, i) for i in range(2))
            cross_attn = _attention(block.ln_cross_attn, cross, (_bare(cross.q_attn), k, v))
            up, act, down = _bare(block.mlp.c_fc), direct(block.mlp.act), _bare(block.mlp.c_proj)
            found.append(LayerParts(self_attn, cross_attn, direct_norm(block.ln_2), _feed_forward(up, act, down)))
        return found

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `crossattention.c_attn`."""
        attention = layer.crossattention
        shape = (*encoder_hidden.shape[:2], -1, attention.head_dim)
        keys, values = attention.c_attn(encoder_hidden).chunk(2, -1)
        return keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`ln_f`."""
        return model.decoder.transformer.ln_f(hidden)

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`lm_head`."""
        return model.decoder.lm_head(hidden)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The two as bare functions."""
        return direct_norm(model.decoder.transformer.ln_f), direct(model.decoder.lm_head)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`lm_head`, no bias, no scale."""
        return model.decoder.lm_head.weight, None, 1.0


def _attention(
    norm: Any, attention: Any, projections: tuple[Module, Module, Module], qkv: Module | None = None
) -> AttentionParts:
    (q, k, v), out = projections, _bare(attention.c_proj)
    heads, head_dim, scale = attention.num_heads, attention.head_dim, attention.scaling
    return AttentionParts(direct_norm(norm), q, k, v, out, heads, head_dim, scale, qkv)


def _share(joined: Module, count: int, i: int, x: torch.Tensor) -> torch.Tensor:
    """One of the `count` projections that are joined in a module."""
    return joined(x).chunk(count, -1)[i]


def _feed_forward(up: Module, act: Module, down: Module) -> Module:
    return lambda x: down(act(up(x)))


def _bare(module: Any) -> Module:
    """A `Conv1D` as the bare product it is; anything else as it is."""
    if type(module).__name__ != "Conv1D" or not plain([module]) or "parametrizations" in module._modules:
        return module
    return functools.partial(_conv1d, module.weight, module.bias)


def _conv1d(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.addmm(bias, x.flatten(0, -2), weight).view(*x.shape[:-1], weight.shape[1])
