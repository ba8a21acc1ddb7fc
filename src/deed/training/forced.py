"""The layers of exits (`adapter="layer"`) over whole sequences, from states that were computed before: of the decoder nothing
else runs.

A row may hold several sequences of one source, one after the other (`Packed`): they share its keys and values, which for long
sources cost more than the sequences. Masks and biases say who sees whom, by the positions that tokens have in their own
sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from deed.engine.masks import mask_for
from deed.exits.branches import branches_of


class Source(NamedTuple):
    """What a decoder attends to.

    Attributes:
        family: of the model, for this source (`DecoderFamily.for_source`).
        states: `[rows, source, width]`.
        mask: `[rows, source]`, 1 keeps; None keeps all.
    """

    family: Any
    states: torch.Tensor
    mask: torch.Tensor | None


class Packed(NamedTuple):
    """Where tokens are.

    Attributes:
        positions: `[rows, length]` long, of each token in its sequence.
        sequence: `[rows, length]` long, which of its row's sequences a token is of; -1: padding.
    """

    positions: torch.Tensor
    sequence: torch.Tensor


def source_of(model: Any, encoder_outputs: Any, mask: torch.Tensor | None) -> Source:
    """What the model's decoder attends to.

    Args:
        model: a deed model.
        encoder_outputs: of its encoder.
        mask: `attention_mask` of the encoder's input, or None.
    """
    family = model.deed_family.for_source(model, encoder_outputs)
    own = getattr(encoder_outputs, "attention_mask", None)  # of encoders that read more than the input's tokens
    states, seen = family.source(model, encoder_outputs, mask if own is None else own)
    return Source(family, states, seen)


def can_pack(model: Any) -> bool:
    """Whether several sequences can share a row: not where positions act through biases that a layer adds by itself."""
    return not model.deed_family.has_bias and not model.deed_family.has_cross_bias


def exit_states_from(
    model: Any, source: Source, packed: Packed, states: dict[int, torch.Tensor]
) -> dict[int, torch.Tensor]:
    """What the final norm of each exit gets, by depth, `[rows, length, d_model]`: with `adapter="layer"` what the exit's layer
    makes of the states, else the states. Gradients reach those layers.

    Args:
        model: a deed model.
        source: of the rows.
        packed: where tokens are; one sequence a row unless `can_pack`.
        states: by depth of the exit its layer's output, likewise.
    """
    own = branches_of(model)
    if not own:
        return states
    layers, depths = list(model.deed_family.layers(model)), model.deed_config.exit_layers[:-1]
    family = source.family.with_layers([*layers, *own])
    masks = _Masks(model, family, source, packed)
    found = {}
    for i, depth in enumerate(depths):
        if depth not in states:
            continue
        hidden, number = states[depth], len(layers) + i
        self_mask, bias, cross = masks.of(number, hidden)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        found[depth] = family.run(own[i], hidden, self_mask, bias, source.states, cross, cache, packed.positions)
    return found


class _Masks:
    """Masks and biases of the layers of one batch."""

    def __init__(self, model: Any, family: Any, source: Source, packed: Packed) -> None:
        self.model, self.family, self.source = model, family, source
        at, of = packed.positions, packed.sequence
        self.behind = at[:, :, None] - at[:, None, :]  # how far a key is behind its query
        # Padding sees itself, so that no row of scores is all masked.
        self.seen = (of[:, :, None] == of[:, None, :]) & (self.behind >= 0)
        self.length = at.shape[1]

    def of(self, number: int, hidden: torch.Tensor) -> tuple[Any, Any, Any]:
        """Self-attention's mask `[rows, 1, length, length]` and bias, and cross-attention's mask, as `DecoderFamily.run` takes
        them."""
        model, family = self.model, self.family
        window = family.window(model, min(number, len(model.deed_family.layers(model)) - 1))
        seen = self.seen if window is None else self.seen & (self.behind < window)
        bias = family.position_bias(model, 0, self.length, number) if family.has_bias else None
        cross, mask = None, self.source.mask
        if mask is not None:
            cross = mask_for(model, mask[:, None, None, :], hidden.dtype)
        if family.has_cross_bias:
            cross = family.cross_bias(model, 0, self.length)
            if mask is not None:
                hidden_keys = ~mask[:, None, None, :].to(torch.bool)
                cross = cross.masked_fill(hidden_keys, torch.finfo(cross.dtype).min)
        return mask_for(model, seen[:, None], hidden.dtype), bias, cross
