"""What an exit is: one adaptation module per exit but the last, all feeding the model's own generation head.

An adaptation module's output goes to the head only, never to the next layer (DEED, section 3). The paper does not
publish its module; ours is a residual linear map that starts as the identity, or a decoder layer (`branches.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


class ResidualLinear(nn.Module):
    """h + Wh + b with W = b = 0 at the start, so that a fresh exit equals the base model's own head on that layer."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[…, d_model]` in and out."""
        return hidden + self.linear(hidden)


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))), up starting at zero (Houlsby et al. 2019)."""

    def __init__(self, d_model: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(d_model, inner)
        self.up = nn.Linear(inner, d_model)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[…, d_model]` in and out."""
        return hidden + self.up(nn.functional.gelu(self.down(hidden)))


def linear_adapter(d_model: int) -> nn.Linear:
    """Wh + b, no residual, starting as the identity."""
    layer = nn.Linear(d_model, d_model)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def branch(layer: nn.Module, number: int) -> nn.Module:
    """A copy of a decoder layer, without its hooks.

    Args:
        layer: one of the decoder's.
        number: where a cache keeps the copy's keys and values, in place of the original's (`layer_idx`).
    """
    copied = copy.deepcopy(layer)
    for module in copied.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
        if hasattr(module, "layer_idx"):
            module.layer_idx = number  # type: ignore[assignment]
    return copied


SHARED = "shared"  # in `model.deed_exits`: the layer that all exits use


def view(module: nn.Module, number: int) -> nn.Module:
    """The same layer once more, with a place of its own in a cache: all weights are those of `module`.

    Args:
        module: a layer.
        number: see `branch`.
    """
    made = copy.copy(module)
    made._modules = {name: child if child is None else view(child, number) for name, child in module._modules.items()}
    if hasattr(made, "layer_idx"):
        made.layer_idx = number  # type: ignore[assignment]
    return made


def build_adapters(
    kind: str,
    depths: Sequence[int],
    d_model: int,
    inner: int,
    layers: Sequence[nn.Module] = (),
    shared: bool = False,
) -> nn.ModuleDict:
    """One module per exit but the last, keyed by its depth ("1", "2" …).

    Args:
        kind: `DeedConfig.adapter`.
        depths: 1-based depths of the exits that adapt: all but the last.
        d_model: width of the decoder's hidden states.
        inner: width of `"bottleneck"`.
        layers: the decoder's own, whose last one `"layer"` begins as.
        shared: of `"layer"`, one for all exits, under the key `SHARED`.
    """
    if kind == "layer" and shared:
        return nn.ModuleDict({SHARED: branch(layers[-1], len(layers))} if depths else {})
    if kind == "layer":
        return nn.ModuleDict({str(d): branch(layers[-1], len(layers) + i) for i, d in enumerate(depths)})
    make = {
        "residual_linear": lambda: ResidualLinear(d_model),
        "linear": lambda: linear_adapter(d_model),
        "bottleneck": lambda: Bottleneck(d_model, inner),
        "none": nn.Identity,
    }[kind]
    return nn.ModuleDict({str(depth): make() for depth in depths})
