"""The three stretches of a decoder layer between its attentions as one call each (`deed.kernels.chain`), where the native
library runs them. Elsewhere `parts.py` runs the same modules one by one.

Chains are made once per layer and kept as long as the layer: making them takes as long as a step of a small decoder.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from deed.kernels.chain import Chain, Link, RowNorm, chain, runs_natively

from .parts import is_bare

# Activations of Transformers by the class of their module.
ACTIVATIONS = {
    "ReLU": "relu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "SiLUActivation": "silu",
    "SiLU": "silu",
}


class Chains(NamedTuple):
    """A layer's stretches; None where the library does not run one.

    Attributes:
        before: norm, query, key and value projection: the three side by side.
        between: output projection of self-attention, residual sum, norm, query of cross-attention.
        after: output projection of cross-attention, residual sum, norm, feed-forward, residual sum.
    """

    before: Chain | None
    between: Chain | None
    after: Chain | None


class Modules(NamedTuple):
    """What a layer consists of, in the order of its use.

    Attributes:
        self_norm, cross_norm, ffn_norm: `row_norm` of its norms.
        qkv: query, key and value projection.
        out: output projection of self-attention.
        cross_q, cross_out: of cross-attention.
        up: the feed-forward's first linear; gated: the one under the activation, then the one that it multiplies.
        activation: module.
        down: the feed-forward's last linear.
        post_norm: see `LayerParts`.
    """

    self_norm: RowNorm | None
    cross_norm: RowNorm | None
    ffn_norm: RowNorm | None
    qkv: Sequence[Any]
    out: Any
    cross_q: Any
    cross_out: Any
    up: Sequence[Any]
    activation: Any
    down: Any
    post_norm: bool = False


# By layer: (what they were made from, the chains, which keep those modules, but not the layer).
_kept: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Chains | None]] = weakref.WeakKeyDictionary()


def chains_of(layer: nn.Module, modules: Modules) -> Chains | None:
    """The chains of a layer, or None where none of them would run natively.

    Args:
        layer: by which they are kept.
        modules: of it.
    """
    state = _state(modules)
    kept = _kept.get(layer)
    if kept is None or kept[0] != state:
        kept = _kept[layer] = (state, _made(modules))
    return kept[1]


def row_norm(module: Any, eps: float | None = None) -> RowNorm | None:
    """A norm module as the library knows it; None of any other, or one with hooks.

    Args:
        module: `nn.LayerNorm`, or an RMS norm with a `weight`.
        eps: of an RMS norm.
    """
    weight = getattr(module, "weight", None)
    if not is_bare(module) or not isinstance(weight, torch.Tensor) or weight.ndim != 1 or weight.is_meta:
        return None
    if eps is not None:
        return RowNorm("rms", weight.detach(), None, eps)
    if type(module) is not nn.LayerNorm:
        return None
    bias: Any = module.bias
    return RowNorm("layer", weight.detach(), None if bias is None else bias.detach(), module.eps)


def _state(modules: Modules) -> tuple[Any, ...]:
    """What chains depend on, apart from where weights lie, which they look after themselves."""
    linears = (*modules.qkv, modules.out, modules.cross_q, modules.cross_out, *modules.up, modules.down)
    norms = [n and (n.weight.data_ptr(), n.eps) for n in (modules.self_norm, modules.cross_norm, modules.ffn_norm)]  # type: ignore[union-attr]
    kinds = [(id(m), is_bare(m), str(m.weight.dtype), m.weight.device.type) for m in linears if hasattr(m, "weight")]
    return (len(linears), *kinds, *norms, type(modules.activation), is_bare(modules.activation))


def _made(m: Modules) -> Chains | None:
    if None in (m.self_norm, m.cross_norm, m.ffn_norm):
        return None
    activation = ACTIVATIONS.get(type(m.activation).__name__)
    post = m.post_norm
    before = [Link(linear, before=None if post else m.self_norm) for linear in m.qkv]
    between = [
        Link(m.out, "residual", after=m.self_norm if post else None),
        Link(m.cross_q, before=None if post else m.cross_norm),
    ]
    after = None
    if activation is not None and is_bare(m.activation):
        first = Link(m.up[0], activation=activation, before=None if post else m.ffn_norm)
        gate = [Link(linear, "gate", before=first.before) for linear in m.up[1:]]
        after = [
            Link(m.cross_out, "residual", after=m.cross_norm if post else None),
            first,
            *gate,
            Link(m.down, "residual", after=m.ffn_norm if post else None),
        ]
    made = Chains(*(_native(links) for links in (before, between, after)))
    return made if any(made) else None


def _native(links: list[Link] | None) -> Chain | None:
    if links is None or not all(is_bare(link.linear) and runs_natively(link.linear) for link in links):
        return None
    made = chain(links)
    return made if made.native else None
