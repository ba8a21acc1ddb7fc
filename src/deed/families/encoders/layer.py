"""What an encoder layer consists of (`EncoderLayer`), and by which function it is found for a layer's class.

As in decoding (`families/parts.py`), the modules are the model's own, in the order of their use; only what stands between
them (dropout that does nothing, checks, conversions, masks made anew in every layer) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..chains import row_norm
from ..parts import AttentionParts, Module, activated, direct, direct_norm, joined, plain
from .stretches import Stretches, stretches


@dataclass(frozen=True)
class EncoderLayer:
    """One encoder layer: self-attention and feed-forward.

    Args:
        attention: its norm and projections.
        ffn_norm: the norm of the feed-forward.
        ffn: the feed-forward.
        holds: the modules that only call others: the attention first, whose configuration says how it attends.
        post_norm: norms follow the residual sums (BART, BERT) instead of preceding each part.
        bias: of a number of tokens n makes what is added to the scores, `[1, heads, n, n]`, where the layer has such a bias.
        shares_bias: the layer's `forward` is given such a bias as its third argument (None: it makes its own) and returns
            it as its second value (T5).
        values: how many values its `forward` returns; 0: the states alone, and no tuple.
        stretches: what stands before and after its attention as one call each, where that is int8; else None.
    """

    attention: AttentionParts
    ffn_norm: Module
    ffn: Module
    holds: tuple[Any, ...]
    post_norm: bool = False
    bias: Callable[[int], torch.Tensor] | None = None
    shares_bias: bool = False
    values: int = 0
    stretches: Stretches | None = None


Declaration = Callable[[Any], EncoderLayer | None]

_DECLARED: dict[str, Declaration] = {}


def encoder_layer(*class_names: str) -> Callable[[Declaration], Declaration]:
    """Decorator: this function says what layers of these classes consist of, or None where one has more to it.

    Example:
        ```python
        @encoder_layer("ViTLayer")
        def vit_layer(layer):
            attention, mlp = layer.attention, layer.mlp
            return EncoderLayer(
                attention_parts(layer.layernorm_before, attention, heads="num_attention_heads"),
                direct_norm(layer.layernorm_after),
                feed_forward(mlp.fc1, mlp.activation_fn, mlp.fc2),
                holds=(attention, mlp),
            )
        ```
    """

    def declare(function: Declaration) -> Declaration:
        _DECLARED.update(dict.fromkeys(class_names, function))
        return function

    return declare


def feed_forward(up: Any, act: Any, down: Any) -> Module:
    """A feed-forward of two linear layers.

    Args:
        up: the first.
        act: the activation between them.
        down: the second.
    """
    first, second = activated(up, act), direct(down)
    return lambda x: second(first(x))


def layer_norm_stretches(
    norms: tuple[Any, Any],
    attention: Any,
    projections: tuple[str, str, str, str],
    ffn: tuple[Any, Any, Any],
    post_norm: bool = False,
) -> Stretches | None:
    """`stretches` of a layer with layer norms and a feed-forward of two linears.

    Args:
        norms: of attention and feed-forward.
        attention: the module.
        projections: names of its query, key, value and output projection.
        ffn: first linear, activation, last linear.
        post_norm: see `EncoderLayer`.
    """
    q, k, v, out = (getattr(attention, name) for name in projections)
    up, act, down = ffn
    return stretches([row_norm(norm) for norm in norms], (q, k, v), out, (up,), act, down, post_norm)


def attention_parts(
    norm: Any,
    attention: Any,
    projections: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    heads: str = "num_heads",
) -> AttentionParts:
    """An attention by the names it gives to its parts.

    Args:
        norm: the norm before or after it.
        attention: the module.
        projections: names of its query, key, value and output projection.
        heads: name of the attribute with the number of heads.
    """
    q, k, v, out = (direct(getattr(attention, name)) for name in projections)
    sizes = (getattr(attention, heads), attention.head_dim, attention.scaling)
    return joined(AttentionParts(direct_norm(norm), q, k, v, out, *sizes))


def parts_of(layer: Any) -> EncoderLayer | None:
    """What a module consists of where it is an encoder layer that is declared and does no more than its class says: not in
    training, no hooks, no other attention than eager or sdpa, no float16 (whose layers clamp what overflows)."""
    kind = type(layer)
    declaration = _DECLARED.get(kind.__name__)
    # A class of somebody's own of the same name may do anything.
    if declaration is None or not kind.__module__.startswith(("transformers.models.", "deed.models.")):
        return None
    if not plain([layer]):
        return None
    parts = declaration(layer)
    if parts is None or not plain(parts.holds):
        return None
    attention = parts.holds[0]
    config = getattr(attention, "config", None)
    if getattr(config, "_attn_implementation", None) not in ("eager", "sdpa", None):
        return None
    if getattr(attention, "is_causal", False):
        return None
    return None if any(p.dtype == torch.float16 for p in layer.parameters()) else parts
