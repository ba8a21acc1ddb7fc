"""Tensors learned about a model after training (gates, low-rank heads), saved with its exits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Learned(nn.Module):
    """What exit checks learned about this model (`deed.policies.exit_checks`): named tensors, saved with the exits, not
    trained with them.

    Buffers, so that optimisers, weight decay and DDP pass them by.
    """

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value)


LEARNED = ("gate", "screen")


def add_learned(model: Any, stored: dict[str, torch.Tensor]) -> None:
    """Make room in `model.deed_exits` for what of `LEARNED` is among the `stored` tensors of an exits file, and for
    nothing else of it."""
    for name in LEARNED:
        found = {k[len(name) + 1 :]: v for k, v in stored.items() if k.startswith(f"{name}.")}
        if found:
            model.deed_exits[name] = Learned(**{k: torch.empty_like(v, device=model.device) for k, v in found.items()})
        elif name in model.deed_exits:
            del model.deed_exits[name]
