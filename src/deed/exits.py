"""What an exit is: one adaptation module per exit but the last, all feeding the model's own generation head.

An adaptation module's output goes to the head only, never to the next layer (DEED, section 3). The paper does not
publish its module; ours is a residual linear map that starts as the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .config import DeedConfig
from .families.parts import direct, plain


class ResidualLinear(nn.Module):
    """h + Wh + b with W = b = 0 at the start, so that a fresh exit equals the base model's own head on that layer."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
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
        return hidden + self.up(nn.functional.gelu(self.down(hidden)))


def linear_adapter(d_model: int) -> nn.Linear:
    """Wh + b, no residual, starting as the identity."""
    layer = nn.Linear(d_model, d_model)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def build_adapters(config: DeedConfig, d_model: int) -> nn.ModuleDict:
    """One module per exit but the last, keyed by its depth ("1", "2" …).

    Args:
        config: a resolved configuration (`DeedConfig.resolve`).
        d_model: width of the decoder's hidden states.
    """
    assert config.exit_layers is not None, "resolve() the configuration first"
    make = {
        "residual_linear": lambda: ResidualLinear(d_model),
        "linear": lambda: linear_adapter(d_model),
        "bottleneck": lambda: Bottleneck(d_model, config.adapter_dim),
        "none": nn.Identity,
    }[config.adapter]
    return nn.ModuleDict({str(depth): make() for depth in config.exit_layers[:-1]})


def exit_features(model: Any, depth: int, hidden: torch.Tensor) -> torch.Tensor:
    """What the head gets at the exit at `depth`: final norm, then that exit's adaptation module. `[…, d_model]`."""
    features = model.deed_family.finish(model, hidden)
    adapter = str(depth)
    return model.deed_exits[adapter](features) if adapter in model.deed_exits else features


class DirectExits:
    """A model's exits as bare functions (`families.parts.direct`), for one generation: the same numbers as `exit_features`
    and `exit_head` of the model to within rounding."""

    def __init__(self, model: Any) -> None:
        self.finish, self.head = model.deed_family.ends(model)
        depths = model.deed_config.exit_layers[:-1]
        self.adapters = {d: _direct(model.deed_exits[str(d)]) for d in depths if str(d) in model.deed_exits}

    def features(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """What the head gets: `[…, d_model]` of a layer's output."""
        features = self.finish(hidden)
        adapter = self.adapters.get(depth)
        return features if adapter is None else adapter(features)

    def logits(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """`[…, vocab]`; half precision widened."""
        return self.logits_of(self.features(depth, hidden))

    def logits_of(self, features: torch.Tensor) -> torch.Tensor:
        """The same of what the head gets."""
        logits = self.head(features)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _direct(adapter: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    if type(adapter) is not ResidualLinear or not plain([adapter]):
        return adapter
    linear = direct(adapter.linear)
    return lambda hidden: hidden + linear(hidden)


class Learned(nn.Module):
    """What cheap asking learned about this model (`deed.asking`), saved with the exits: named tensors, not trained with it.

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
