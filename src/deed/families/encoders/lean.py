"""`lean`: an encoder whose known layers run by their parts, within its own `forward`.

Embeddings, masks, the loop over layers, the final norm and the object that is returned stay the model's: a copy of the
encoder shares all modules with it but its layers, in whose place stand `LeanLayer`s. Any other code in an encoder (a
subclass, hooks on it, modules of other kinds beside its layers) runs as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deed.utils.pausing import may_pause

from ..kept import kept
from .layer import EncoderLayer, parts_of
from .reading import Reading
from .stem import STEM, lean_stem


class LeanLayer(nn.Module):
    """One layer by its parts, called as the layer is.

    Args:
        layer: the layer.
        parts: what it consists of.
        reading: of the stack's pass.
        first: whether it is the first of the stack.
        last: whether it is the last.
    """

    def __init__(self, layer: nn.Module, parts: EncoderLayer, reading: Reading, first: bool, last: bool) -> None:
        super().__init__()
        self.lean_of, self.parts, self.reading = layer, parts, reading
        self.first, self.last = first, last
        self.training = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("lean_of"), name)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *others: Any, **options: Any
    ) -> Any:
        """The layer's own arguments and result. Encoders give their layers states, mask and perhaps a bias; a layer that is
        given more runs by itself."""
        may_pause()
        parts, reading = self.parts, self.reading
        given = others[1:] if parts.shares_bias else others
        if any(x is not None for x in given):
            return self.lean_of(hidden_states, attention_mask, *others, **options)
        bias = (others[0] if others else options.get("position_bias")) if parts.shares_bias else None
        hidden = hidden_states
        if self.first:
            hidden = reading.begin(hidden, bias if attention_mask is None else attention_mask)
        if bias is None and parts.bias is not None:
            bias = parts.bias(reading.length(hidden))
        hidden = self._run(hidden, reading.scores_mask(bias, attention_mask))
        if self.last:
            hidden = reading.end(hidden)
        if not parts.values:
            return hidden
        return (hidden, bias if parts.shares_bias else None, *([None] * (parts.values - 2)))

    def _run(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        parts, attn, post = self.parts, self.parts.attention, self.parts.post_norm
        whole = parts.stretches if hidden.dtype == torch.float32 else None
        x = hidden if post or whole is not None else attn.norm(hidden)
        if whole is not None:
            q, k, v = whole.before(x)[1].chunk(3, -1)  # type: ignore[union-attr]
        else:
            q, k, v = (attn.q(x), attn.k(x), attn.v(x)) if attn.qkv is None else attn.qkv(x).chunk(3, -1)
        q, k, v = (_heads(part, attn.head_dim) for part in (q, k, v))
        attended = self.reading.attend(q, k, v, mask, attn.scale)
        if whole is not None:
            return whole.after(hidden, attended)[0]  # type: ignore[return-value]
        hidden = hidden + attn.out(attended)
        if post:
            hidden = attn.norm(hidden)
            return parts.ffn_norm(hidden + parts.ffn(hidden))
        return hidden + parts.ffn(parts.ffn_norm(hidden))


def _heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def lean(encoder: nn.Module, packs: bool = True) -> nn.Module:
    """An encoder that computes what `encoder` does, its known layers by their parts; `encoder` itself where it has none.

    It is for one pass: what is changed in the model afterwards may or may not show in it.

    Args:
        encoder: of a model.
        packs: tokens that no token sees are left out, and have states of zero: only where the decoder does not see them
            either.
    """
    known: dict[str, EncoderLayer] = {}
    children: dict[str, nn.Module | None] = {}
    if isinstance(encoder, nn.ModuleList):
        layers = encoder
        parts = kept(layers, "parts", lambda: {name: parts_of(layer) for name, layer in layers.named_children()})
        known = {name: found for name, found in parts.items() if found is not None}
        reading, names = Reading(packs and len(known) == len(parts)), list(parts)
    for name, child in encoder._modules.items():
        if child is None:
            children[name] = None
        elif name in known:
            children[name] = LeanLayer(child, known[name], reading, name == names[0], name == names[-1])
        else:
            children[name] = lean_stem(child) if type(child).__name__ == STEM else lean(child, packs)
    if all(children[name] is child for name, child in encoder._modules.items()):
        return encoder
    twin = object.__new__(type(encoder))
    twin.__dict__.update({**encoder.__dict__, "_modules": children})
    return twin
