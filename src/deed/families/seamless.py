"""SeamlessM4T, both versions, from text or speech to text: BART's build with other names.

Read in transformers 5.23, models/{seamless_m4t,seamless_m4t_v2}/modeling_*.py. Their speech models shorten their input, and so
does the mask that the decoder sees.
"""

from __future__ import annotations

from typing import Any

import torch

from .bart_like import BartLikeFamily, Build
from .base import register_family
from .parts import Module, direct, plain


@register_family("SeamlessM4TForTextToText", "SeamlessM4Tv2ForTextToText")
class SeamlessTextFamily(BartLikeFamily):
    """From text."""

    build = Build("text_decoder", final="layer_norm", cross="cross_attention", feed_norm="ffn_layer_norm")

    def d_model(self, model: Any) -> int:
        """`hidden_size`."""
        return model.config.hidden_size

    def heads(self, model: Any) -> tuple[int, int]:
        """`decoder_attention_heads`, and hidden_size over it."""
        heads = model.config.decoder_attention_heads
        return heads, model.config.hidden_size // heads

    def feed_forward_modules(self, layer: Any) -> None:
        """Its `ffn` may be more than its modules."""
        return

    def feed_forward(self, layer: Any) -> Module:
        """The layer's `ffn`; with hooks or the like, as it is."""
        ffn = layer.ffn
        weight = getattr(ffn.fc2, "weight", None)
        if not plain([ffn]) or not isinstance(weight, torch.Tensor) or weight.dtype != ffn.fc1.weight.dtype:
            return ffn
        up, act, down = direct(ffn.fc1), direct(ffn.act), direct(ffn.fc2)
        return lambda x: down(act(up(x)))


@register_family("SeamlessM4TForSpeechToText", "SeamlessM4Tv2ForSpeechToText")
class SeamlessSpeechFamily(SeamlessTextFamily):
    """From speech."""

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states, and the mask of its input's frames shortened to theirs.

        Args:
            model: the model.
            encoder_outputs: of the encoder.
            mask: `[rows, frames]`, 1 keeps, or None.
        """
        states = encoder_outputs[0]
        if mask is not None:
            lengths = model._compute_sub_sample_lengths_from_attention_mask(mask).to(states.device)
            mask = torch.arange(states.shape[1], device=states.device)[None] < lengths[:, None]
        return states, mask
