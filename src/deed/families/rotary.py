"""Rotary position embeddings: queries and keys turned by their positions, by the model's own functions."""

from __future__ import annotations

import sys
from typing import Any

import torch

from .parts import Rotate

CHANGING = ("dynamic", "longrope")  # kinds whose angles depend on how long the sequence has become


def rotation(embedding: Any, attention: Any) -> Rotate | None:
    """What a lean layer does to queries and keys, or None where angles change with the length, so that the layer has to be
    run by itself.

    Args:
        embedding: the decoder's rotary embedding; given a tensor and positions it answers cosines and sines.
        attention: one of its attentions, whose modeling file has the `apply_rotary_pos_emb` that it calls.
    """
    if embedding.rope_type in CHANGING:
        return None
    turn = sys.modules[type(attention).__module__].apply_rotary_pos_emb  # type: ignore[attr-defined]

    def rotate(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return turn(q, k, *embedding(q, positions))

    return rotate
