"""From a layer's output to an exit's logits: final norm, adaptation module, the model's own head or its draft head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deed.exits.adapters import ResidualLinear
from deed.families.parts import direct, plain

from .draft_head import draft_logits


def exit_features(model: Any, depth: int, hidden: torch.Tensor) -> torch.Tensor:
    """What the head gets at the exit at `depth`: final norm, then that exit's adaptation module.

    Args:
        model: a deed model.
        depth: of the exit, 1-based.
        hidden: its layer's output, `[…, d_model]`, as what is returned; with `adapter="layer"` the exit's own layer's.
    """
    features = model.deed_family.final_norm(model, hidden)
    adapter = str(depth)
    if adapter not in model.deed_exits or model.deed_config.adapter == "layer":
        return features
    return model.deed_exits[adapter](features)


def exit_logits_of(model: Any, depth: int, hidden: torch.Tensor) -> torch.Tensor:
    """The logits of an exit, `[…, vocab]`: by the model's draft head where it has one, at the last exit by its own head.

    Args:
        model: a deed model.
        depth: of the exit, 1-based.
        hidden: see `exit_features`.
    """
    draft = None if depth == model.deed_config.exit_layers[-1] else draft_logits(model)
    return own_logits_of(model, depth, hidden) if draft is None else draft(exit_features(model, depth, hidden))


def own_logits_of(model: Any, depth: int, hidden: torch.Tensor) -> torch.Tensor:
    """The same by the model's own head, whether or not it has a draft head.

    Args:
        model: a deed model.
        depth: of the exit, 1-based.
        hidden: see `exit_features`.
    """
    return model.deed_family.head(model, exit_features(model, depth, hidden))


class DirectExits:
    """A model's exits as bare functions (`families.parts.direct`), for one generation: the same numbers as `exit_features`
    and `exit_head` of the model to within rounding."""

    def __init__(self, model: Any) -> None:
        self.final_norm, self.head = model.deed_family.norm_and_head(model)
        self.draft = draft_logits(model, bare=True)
        *depths, self.last = model.deed_config.exit_layers
        if model.deed_config.adapter == "layer":  # runs before the norm (engine/branches.py)
            depths = []
        self.adapters = {d: _direct(model.deed_exits[str(d)]) for d in depths if str(d) in model.deed_exits}

    def features(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """What the head gets: `[…, d_model]` of a layer's output."""
        features = self.final_norm(hidden)
        adapter = self.adapters.get(depth)
        return features if adapter is None else adapter(features)

    def logits(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """`[…, vocab]`; half precision widened."""
        return self.logits_of(self.features(depth, hidden), self.draft is not None and depth != self.last)

    def logits_of(self, features: torch.Tensor, by_draft: bool = False) -> torch.Tensor:
        """The same of what the head gets.

        Args:
            features: `[…, d_model]`.
            by_draft: by the draft head.
        """
        logits = self.draft(features) if by_draft and self.draft is not None else self.head(features)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _direct(adapter: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    if type(adapter) is not ResidualLinear or not plain([adapter]):
        return adapter
    linear = direct(adapter.linear)
    return lambda hidden: hidden + linear(hidden)
