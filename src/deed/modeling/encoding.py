"""How `generate()` runs the encoder: by its own `forward`, with the layers that are known run lean (`families/encoders`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from deed.families.encoders import lean

# The model whose encoder is about to run in this thread, and whether padding may be left out; None: as Transformers has it.
_reading: ContextVar[tuple[Any, bool] | None] = ContextVar("deed_reading", default=None)
RECORDS = ("output_attentions", "output_hidden_states")


@contextmanager
def lean_where_possible(model: Any, generation_config: Any = None, masked: bool = False) -> Iterator[None]:
    """While this lasts, in this thread, `model.get_encoder()` is lean, unless more than states is asked for, or gradients.

    Args:
        model: a deed model.
        generation_config: says whether attentions or hidden states are asked for.
        masked: the encoder is given a mask, and with it the decoder: what it hides is not computed. (Pix2Struct's encoder
            finds padding by itself, and its decoder then sees it.)
    """
    asked = any(getattr(generation_config, name, None) for name in RECORDS)
    usable = not asked and not torch.is_grad_enabled() and not torch.is_autocast_enabled(model.device.type)
    token = _reading.set((model, masked) if usable else None)
    try:
        yield
    finally:
        _reading.reset(token)


def encoder_of(model: Any, encoder: Any) -> Any:
    """`encoder`, or a lean one for one pass.

    Args:
        model: whose encoder it is.
        encoder: as Transformers finds it.
    """
    reading = _reading.get()
    if reading is None or reading[0] is not model:
        return encoder
    config = getattr(encoder, "config", None)
    return encoder if any(getattr(config, name, False) for name in RECORDS) else lean(encoder, packs=reading[1])
