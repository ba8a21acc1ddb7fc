"""A decoder layer as its own modules in the order of their use, and the one function that runs it.

Transformers' layers carry arguments, checks and conversions for training, tracing and every kind of cache. At decoding
time that costs four times the arithmetic of a small layer. A family that can say which modules a layer consists of
(`LayerParts`) has its layers run here instead: the same modules in the same order, so that weights, quantised linears and
LoRA are what they are in the model, and only what stands between them is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from deed.kernels.float32 import MIN_WEIGHTS, product
from deed.kernels.int8_linear import Int8Linear, join, joinable
from deed.kernels.small import small_product

if TYPE_CHECKING:
    from deed.kernels.chain import Chain

    from .chains import Chains

Module = Callable[[torch.Tensor], torch.Tensor]
Rotate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class AttentionParts:
    """One attention: its norm, projections, number of heads, their size, and the factor on the scores.

    Args:
        qkv: the first three as one, their outputs side by side (see `joined`); self-attention only.
        rotate: what is done to queries and keys `[r, heads, q, head_dim]` by their positions `[1 or r, q]` (rotary
            position embeddings, norms); self-attention only. Keys are kept as it returns them.
    """

    norm: Module
    q: Module
    k: Module
    v: Module
    out: Module
    heads: int
    head_dim: int
    scale: float
    qkv: Module | None = None
    rotate: Rotate | None = None


@dataclass(frozen=True)
class LayerParts:
    """One decoder layer: attention to what was decoded, attention to the source, feed-forward.

    Args:
        post_norm: norms follow the residual sums (BART) instead of preceding each part (T5).
        chains: what stands between two attentions as one call each; None: module by module.
    """

    self_attn: AttentionParts
    cross: AttentionParts
    ffn_norm: Module
    ffn: Module
    post_norm: bool = False
    chains: Chains | None = None


class Attends(Protocol):
    """The owner of keys and values: the cache, for the block being computed."""

    def attend_self(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """Take in new keys and values, attend to all so far.

        Args:
            q: `[r, heads, q, head_dim]`.
            k: the new keys, like `q`.
            v: the new values, like `q`.
            scale: factor on the scores.

        Returns:
            Like `q`.
        """
        ...

    def attend_cross(self, q: torch.Tensor, scale: float) -> torch.Tensor:
        """`[r, heads, q, head_dim]`: attend to the source."""
        ...


def before(
    parts: LayerParts, hidden: torch.Tensor, positions: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer up to its self-attention: query, key and value `[r, heads, q, head_dim]`.

    Args:
        parts: the layer.
        hidden: its input, `[r, q, d_model]`.
        positions: `[1 or r, q]`, where the layer has a `rotate`.
    """
    attn, chains = parts.self_attn, parts.chains
    if chains is not None and chains.before is not None:
        q, k, v = _side_by_side(chains.before(hidden)[1], attn, chains.before)  # type: ignore[arg-type]
        return (q, k, v) if attn.rotate is None else (*_rotated(attn, q, k, positions), v)
    x = hidden if parts.post_norm else attn.norm(hidden)
    q, k, v = (attn.q(x), attn.k(x), attn.v(x)) if attn.qkv is None else attn.qkv(x).chunk(3, -1)
    q, k, v = _split(q, attn), _split(k, attn), _split(v, attn)
    return (q, k, v) if attn.rotate is None else (*_rotated(attn, q, k, positions), v)


def keys_and_values(
    parts: LayerParts, hidden: torch.Tensor, positions: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and value of `before`, without the query where that is a product of its own.

    Args:
        parts: the layer.
        hidden: its input, `[r, q, d_model]`.
        positions: `[1 or r, q]`, where the layer has a `rotate`.
    """
    attn, chains = parts.self_attn, parts.chains
    if attn.rotate is not None or attn.qkv is not None or (chains is not None and chains.before is not None):
        return before(parts, hidden, positions)[1:]
    x = hidden if parts.post_norm else attn.norm(hidden)
    return _split(attn.k(x), attn), _split(attn.v(x), attn)


def _rotated(
    attn: AttentionParts, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    assert attn.rotate is not None and positions is not None, "a layer that rotates needs positions"
    return attn.rotate(q, k, positions)


def between(parts: LayerParts, hidden: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From there to the attention to the source: its residual `[r, q, d_model]` and its query.

    Args:
        parts: the layer.
        hidden: its input, `[r, q, d_model]`.
        attended: what self-attention gave, `[r, heads, q, head_dim]`.
    """
    attn, cross, post = parts.self_attn, parts.cross, parts.post_norm
    if parts.chains is not None and parts.chains.between is not None:
        h, query = parts.chains.between(hidden, _merge(attended))
        return h, _split(query, cross)  # type: ignore[return-value, arg-type]
    hidden = hidden + attn.out(_merge(attended))
    if post:
        hidden = attn.norm(hidden)
    return hidden, _split(cross.q(hidden if post else cross.norm(hidden)), cross)


def after(parts: LayerParts, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """From there to the layer's output, `[r, q, d_model]`.

    Args:
        parts: the layer.
        hidden: the residual, `[r, q, d_model]`.
        attended: what attention to the source gave, `[r, heads, q, head_dim]`.
    """
    cross = parts.cross
    if parts.chains is not None and parts.chains.after is not None:
        return parts.chains.after(hidden, _merge(attended))[0]  # type: ignore[return-value]
    hidden = hidden + cross.out(_merge(attended))
    if parts.post_norm:
        hidden = cross.norm(hidden)
        return parts.ffn_norm(hidden + parts.ffn(hidden))
    return hidden + parts.ffn(parts.ffn_norm(hidden))


def run_parts(
    parts: LayerParts, hidden: torch.Tensor, attention: Attends, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """One layer.

    Args:
        parts: the layer.
        hidden: `[r, q, d_model]`, as what is returned.
        attention: keeps keys and values.
        positions: `[1 or r, q]`, where the layer has a `rotate`.
    """
    q, k, v = before(parts, hidden, positions)
    hidden, q = between(parts, hidden, attention.attend_self(q, k, v, parts.self_attn.scale))
    return after(parts, hidden, attention.attend_cross(q, parts.cross.scale))


# Between two products every operation, be it a view, takes microseconds: weights have swept the caches. So there are as few as
# can be, and one position needs no transposing.


def _side_by_side(
    qkv: torch.Tensor, attention: AttentionParts, chain: Chain
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value `[r, heads, q, head_dim]` of `[r, q, all three]`."""
    rows, length, width = qkv.shape
    heads, head_dim = attention.heads, attention.head_dim
    if width != 3 * heads * head_dim:  # heads share keys and values
        parts = qkv.split([link.linear.out_features for link in chain.links], -1)
        return tuple(_split(part, attention) for part in parts)  # type: ignore[return-value]
    if length == 1:
        return qkv.view(rows, 3, heads, 1, head_dim).unbind(1)  # type: ignore[return-value]
    return qkv.view(rows, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[return-value]


def _split(x: torch.Tensor, attention: AttentionParts) -> torch.Tensor:
    rows, length, _ = x.shape
    if length == 1:
        return x.view(rows, -1, 1, attention.head_dim)
    return x.view(rows, length, -1, attention.head_dim).transpose(1, 2)


def _merge(x: torch.Tensor) -> torch.Tensor:
    rows, heads, length, head_dim = x.shape
    return (x if length == 1 else x.transpose(1, 2)).reshape(rows, length, heads * head_dim)


def joined(attention: AttentionParts) -> AttentionParts:
    """A self-attention with query, key and value projection as one too, where they are int8 (`deed.quantize`). In float32
    one product of three times the width takes as long as the three (within 10 %, T5-base), and would need a copy of their
    weights."""
    projections: Any = (attention.q, attention.k, attention.v)
    if not joinable(projections) or not all(is_bare(linear) for linear in projections):
        return attention
    if len({linear.out_features for linear in projections}) > 1:  # heads share keys and values
        return attention
    return replace(attention, qkv=join(projections))


def direct(module: Any) -> Module:
    """A linear layer or an activation as the bare function it is, since at small widths calling the module takes longer
    than the arithmetic; anything else (LoRA, quantised, hooked) as it is."""
    if not is_bare(module):
        return module
    if type(module) is nn.Linear:
        few_weights = module.weight.numel() < MIN_WEIGHTS
        return (small_product if few_weights else product)(module.weight, module.bias)
    return ACTIVATIONS.get(type(module).__name__, module)


def activated(up: Any, act: Any) -> Module:
    """A linear layer and the activation after it, which goes to work in place where the layer's output is nobody else's: of a
    long block, another tensor takes as long to come by as to fill."""
    first, then = direct(up), direct(act)
    in_place = IN_PLACE.get(then) if first is not up or type(up) is Int8Linear else None
    then = in_place or then
    return lambda x: then(first(x))


def _gelu_by_tanh(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.gelu(x, approximate="tanh")


def _gelu_by_tanh_in_place(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.gelu_(x, approximate="tanh")


# By the names of their classes. Transformers' "gelu_new" and torch's approximation are the same formula.
ACTIVATIONS: dict[str, Module] = {
    "GELUActivation": nn.functional.gelu,
    "NewGELUActivation": _gelu_by_tanh,
    "GELUTanh": _gelu_by_tanh,
    "ReLU": nn.functional.relu,
}
IN_PLACE: dict[Module, Module] = {
    nn.functional.gelu: torch.ops.aten.gelu_,
    _gelu_by_tanh: _gelu_by_tanh_in_place,
    nn.functional.relu: torch.relu_,
}


def direct_norm(module: Any) -> Module:
    """A layer norm as the bare function it is; anything else as it is."""
    if type(module) is not nn.LayerNorm or not is_bare(module):
        return module
    return functools.partial(_layer_norm, module.normalized_shape, module.weight, module.bias, module.eps)


def _layer_norm(
    shape: tuple[int, ...], weight: torch.Tensor, bias: torch.Tensor, eps: float, x: torch.Tensor
) -> torch.Tensor:
    return nn.functional.layer_norm(x, shape, weight, bias, eps)


def direct_rms_norm(module: Any, eps: float) -> Module:
    """T5's norm by torch's fused function. Only in float32: the module computes the variance in float32 whatever it is
    given, and so must who compares with it."""
    if module.weight.dtype != torch.float32 or not is_bare(module):
        return module
    return functools.partial(_rms_norm, (module.weight.shape[0],), module.weight, eps)


def _rms_norm(shape: tuple[int], weight: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.rms_norm(x, shape, weight, eps)


def is_bare(module: Any) -> bool:
    """Whether calling a module does what its class says and no more."""
    return isinstance(module, nn.Module) and not _changed(module) and "parametrizations" not in module._modules


def plain(modules: Iterable[Any]) -> bool:
    """Whether these containers do nothing but call what is in them: in evaluation mode, no hooks, no other `forward`.

    Their leaves are called as modules, so hooks on those work in any case.
    """
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return False
    return not any(m.training or _changed(m) for m in modules)


def _changed(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return "forward" in vars(module) or any(getattr(hook, "__module__", None) not in RECORDERS for hook in hooks)


# Modules whose hooks change nothing. Those of the first stay registered after the first forward() that gave hidden states
# and do nothing until hidden states are requested again; those of the second look on while another thread runs forward().
RECORDERS = ("transformers.utils.output_capturing", "deed.exits.branches")
