"""Whisper: BART's build with norms before the parts, a norm after the last layer, and an encoder without padding.

Read in transformers 5.23, models/whisper/modeling_whisper.py. Prompts are left-padded (`prompt_ids`,
`condition_on_prev_tokens`), so positions count what the decoder's mask keeps. Encoder masks of long inputs are about frames,
for `generate()` alone.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .bart import BartFamily
from .base import register_family
from .parts import LayerParts, Module, direct


@register_family("WhisperForConditionalGeneration")
class WhisperFamily(BartFamily):
    """Whisper."""

    layer = "WhisperDecoderLayer"
    positions_from_mask = True

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All of the states."""
        return encoder_outputs[0], None

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and learned positions."""
        decoder = model.model.decoder
        hidden = decoder.embed_tokens(ids) + decoder.embed_positions(ids, position_ids=positions)
        return nn.functional.dropout(hidden, decoder.dropout, decoder.training)

    def parts(self, model: Any) -> list[LayerParts] | None:
        """As BART's, norms first."""
        found = super().parts(model)
        return None if found is None else [replace(layer, post_norm=False) for layer in found]

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The decoder's last norm."""
        return model.model.decoder.layer_norm(hidden)

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """`proj_out`."""
        return model.proj_out(hidden)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """Both as functions."""
        return functools.partial(self.final_norm, model), direct(model.proj_out)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """`proj_out.weight`."""
        return model.proj_out.weight, None, 1.0
