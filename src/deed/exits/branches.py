"""Exits with a decoder layer of their own (`adapter="layer"`): the layer reads the states of its exit's depth, and its output
goes to the final norm and the head only, never to the deeper layers (Balcony, Jamialahmadi et al. 2025, arXiv 2503.05005).

Here is the pass without a cache: whatever the model hands its last layer (masks, position bias, the encoder's states), the
exits' layers get, but for the hidden states. How they are decoded with a cache is in `engine/branches.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .adapters import SHARED, view


def branches_of(model: Any) -> list[nn.Module]:
    """The layers of a deed model's exits but the last, bottom first; none where its exits have no layers of their own. One
    that all share comes once for each, with keys and values of its own: what it reads differs."""
    if model.deed_config.adapter != "layer":
        return []
    if model.deed_config.adapter_shared:
        first = len(model.deed_family.layers(model))
        return [view(model.deed_exits[SHARED], first + i) for i in range(len(model.deed_config.exit_layers) - 1)]
    return [model.deed_exits[str(depth)] for depth in model.deed_config.exit_layers[:-1]]


class LastCall:
    """What a model's last decoder layer was called with.

    Attributes:
        args: positional arguments but the first, the hidden states; None: it was not called.
        kwargs: the others.
    """

    def __init__(self) -> None:
        self.args: tuple[Any, ...] | None = None
        self.kwargs: dict[str, Any] = {}

    def again(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The output of another layer of that class in the same place.

        Args:
            layer: to be called.
            hidden: `[batch, length, d_model]`, as what is returned.

        Raises:
            ValueError: the last layer was not called, as LayerDrop may have it.
        """
        if self.args is None:
            raise ValueError(
                'adapter="layer" calls the exits\' layers as the last one is called, which was left out; turn LayerDrop off '
                "(config.decoder_layerdrop = 0)"
            )
        output = layer(hidden, *self.args, **self.kwargs)
        return output[0] if isinstance(output, tuple) else output


@contextmanager
def watched(layer: nn.Module) -> Iterator[LastCall]:
    """Take note of what `layer` is called with in this thread until the block ends."""
    call, thread = LastCall(), threading.get_ident()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            call.args, call.kwargs = args[1:], kwargs

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield call
    finally:
        handle.remove()
