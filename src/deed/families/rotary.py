"""Rotary position embeddings: queries and keys turned by their positions, by the model's own functions."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from typing_extensions import Self

from .base import DecoderFamily
from .parts import Rotate

CHANGING = ("dynamic", "longrope")  # kinds whose angles depend on how long the sequence has become


class RotaryFamily(DecoderFamily):
    """A decoder whose `rotary_emb` makes cosines and sines of positions, which its layers are given.

    Attributes:
        rotary: that module, in the family of one generation (`for_source`): a layer does not know it.
    """

    rotary: Any = None

    def for_source(self, model: Any, encoder_outputs: Any) -> Self:
        """This family with the decoder's rotary embedding.

        Args:
            model: the model.
            encoder_outputs: not used.
        """
        found = copy.copy(self)
        found.rotary = self.decoder(model).rotary_emb
        return found


def rotation(embedding: Any, attention: Any) -> Rotate | None:
    """What a layer run by its parts does to queries and keys, or None where angles change with the length, so that the layer
    has to be run by itself.

    Args:
        embedding: the decoder's rotary embedding; given a tensor and positions it answers cosines and sines.
        attention: one of its attentions, whose modeling file has the `apply_rotary_pos_emb` that it calls.
    """
    if embedding.rope_type in CHANGING:
        return None
    turn = sys.modules[type(attention).__module__].apply_rotary_pos_emb

    def rotate(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return turn(q, k, *embedding(q, positions))

    return rotate
