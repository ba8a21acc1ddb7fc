"""What stands between two attentions of a layer as one call: norms, linears, activation, residual sums.

At batch 1 the operations around the products cost as much as the products. By the native library (`native/`) a chain of
linears is one call with one team of threads; without it, or for what the library does not know, the same in PyTorch. Either
way a row of a block is what the row alone gives: bit for bit natively, int8 also in PyTorch.

    feed_forward = chain([
        Link(ffn.wi, before=RowNorm("rms", norm.weight, eps=1e-6), activation="relu"),
        Link(ffn.wo, role="residual"),
    ])
    hidden, _ = feed_forward(hidden)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import native
from .float32 import native_up_to, product
from .int8 import Native
from .int8_linear import Int8Linear
from .native.runs import NOTHING, PAD, NativeWeight, Run, address, available, stage
from .weight_only import WeightOnly

ROLES = ("output", "gate", "residual")
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


@dataclass(frozen=True, eq=False)
class RowNorm:
    """A norm over the last dimension.

    Args:
        kind: "rms" (T5) or "layer".
        weight: `[width]` float32 or None.
        bias: `[width]` float32 or None; "layer" only.
        eps: added to the mean square, or the variance.
    """

    kind: str
    weight: torch.Tensor | None
    bias: torch.Tensor | None = None
    eps: float = 1e-6

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[…, width]`."""
        if self.kind == "rms":
            return functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


@dataclass(frozen=True, eq=False)
class Link:
    """One linear of a chain, which has a residual stream `h`.

    Args:
        linear: `nn.Linear` or `Int8Linear`.
        role: "output": `act(linear(norm(h)))`; several after one another stand side by side. "gate": multiplies the output
            before it. "residual": added to `h`; reads the output before it, or what the chain was given as `x`.
        activation: of `deed.kernels.native.ACTIVATIONS`; not of a residual.
        before: norm of `h` as the linear reads it; not of a residual. Links that share one have the same object.
        after: norm of the residual sum, which becomes `h`.
    """

    linear: Any
    role: str = "output"
    activation: str = "none"
    before: RowNorm | None = None
    after: RowNorm | None = None


class Chain:
    """`chain(h, x)`: (the residual stream after it, the last output), None for what it does not have.

    Args:
        links: in order. The first is a "residual" where the chain begins with `x` (what an attention gave).

    Raises:
        ValueError: an unknown role or activation, a gate without an output, an activation or norm where it cannot be.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        _check(links)
        self.links = tuple(links)
        self.residual = any(link.role == "residual" for link in links)
        self.ends_with_output = links[-1].role != "residual"
        self.run: Run | None = None
        self.watched: list[tuple[torch.Tensor, int]] = []
        self.rows = _native_rows(links) if available() else 0
        self._linears: list[Callable[[torch.Tensor], torch.Tensor]] | None = None

    @property
    def native(self) -> bool:
        """Whether the native library runs it, for few rows at least."""
        return self.rows > 0

    def __call__(
        self, hidden: torch.Tensor, x: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Run it.

        Args:
            hidden: the residual stream, `[…, width]`.
            x: `[…, in]` of the first linear, where that is a residual.
        """
        if hidden.numel() > self.rows * hidden.shape[-1] or hidden.dtype != torch.float32:
            return self.by_torch(hidden, x)
        if torch.is_grad_enabled() and self._differentiated(hidden, x):
            return self.by_torch(hidden, x)
        if self.run is None or any(tensor.data_ptr() != at for tensor, at in self.watched):
            self._compile()
            assert self.run is not None
        return self.run(hidden, x)

    def by_torch(
        self, hidden: torch.Tensor, x: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The same in PyTorch.

        Args:
            hidden: the residual stream, `[…, width]`.
            x: `[…, in]` of the first linear, where that is a residual.
        """
        if self._linears is None:
            self._linears = [
                product(link.linear.weight, link.linear.bias) if type(link.linear) is nn.Linear else link.linear
                for link in self.links
            ]
        output, before, normed = x, None, hidden
        beside: list[torch.Tensor] = []
        for link, linear in zip(self.links, self._linears, strict=True):
            if link.role == "residual":
                hidden = hidden + linear(output)  # type: ignore[arg-type]
                hidden = hidden if link.after is None else link.after(hidden)
                before, normed, beside = None, hidden, []
                continue
            if link.before is not before:
                before, normed = link.before, hidden if link.before is None else link.before(hidden)
            y = _ACTIVATIONS[link.activation](linear(normed))
            beside = [beside[0] * y] if link.role == "gate" else [*beside, y]
            output = beside[0] if len(beside) == 1 else torch.cat(beside, -1)
        return hidden if self.residual else None, output if self.ends_with_output else None

    def _differentiated(self, *inputs: torch.Tensor | None) -> bool:
        linears = (link.linear for link in self.links if type(link.linear) is nn.Linear)
        tensors = (*inputs, *(tensor for linear in linears for tensor in linear.parameters()))
        return any(tensor is not None and tensor.requires_grad for tensor in tensors)

    def _compile(self) -> None:
        watched: list[torch.Tensor] = []
        stages, weights = [], []
        column = 0
        for i, link in enumerate(self.links):
            linear = link.linear
            if isinstance(linear, Int8Linear):
                weight = linear.multiply.weight
            else:
                weight = NativeWeight.float32(linear.weight.detach())
                watched.append(linear.weight)
            weights.append(weight)
            same = i > 0 and link.role != "residual" and self.links[i - 1].role != "residual"
            same = same and link.before is self.links[i - 1].before
            column = 0 if i == 0 or link.role != "output" or self.links[i - 1].role != "output" else column
            flags = (native.ACTIVATIONS.index(link.activation), _norm(link.before), _norm(link.after))
            kinds = weights[i - 1].struct if same else weight.struct
            same = same and (kinds.kind, kinds.levels) == (weight.struct.kind, weight.struct.levels)
            row = _row_of(self.links, i)
            stages.append(
                stage(weight, linear.bias, ROLES.index(link.role), *flags, same_input=same, column=column, stride=row)
            )
            column += linear.out_features
            tensors = [
                linear.bias,
                *(t for norm in (link.before, link.after) if norm for t in (norm.weight, norm.bias)),
            ]
            watched += [t for t in tensors if t is not None]
        self.watched = [(tensor, tensor.data_ptr()) for tensor in watched]
        self.run = Run(stages, (weights, watched))

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a chain points to its model's weights; make one of the copy")


def chain(links: Sequence[Link]) -> Chain:
    """A chain of linears as one function.

    Args:
        links: in order.

    Raises:
        ValueError: the links do not make a chain.
    """
    return Chain(links)


def fused_norm_linear(linear: Any, norm: RowNorm | None, activation: str = "none") -> Callable[[torch.Tensor], Any]:
    """`act(linear(norm(x)))` as one function of `[…, in]`.

    Args:
        linear: `nn.Linear` or `Int8Linear`.
        norm: or None.
        activation: of `deed.kernels.native.ACTIVATIONS`.
    """
    run = Chain([Link(linear, activation=activation, before=norm)])
    return lambda x: run(x)[1]


def runs_natively(linear: Any) -> bool:
    """Whether the library knows this linear: int8 by our own kernels, or float32 on the CPU, its width a multiple of 16."""
    if type(linear) is Int8Linear:
        bias: Any = linear.bias
        return type(linear.multiply) in (Native, WeightOnly) and (bias is None or _plain(bias))
    if type(linear) is not nn.Linear or linear.weight.shape[1] % PAD or not _plain(linear.weight):
        return False
    return linear.bias is None or _plain(linear.bias)


def _plain(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()


def _native_rows(links: Sequence[Link]) -> int:
    """The most rows that the library runs: 0 if it does not know a link; of int8 any number, so that each row has the same
    arithmetic everywhere; of float32 as many as it is the fastest for."""
    norms = [t for link in links for n in (link.before, link.after) if n for t in (n.weight, n.bias) if t is not None]
    if not all(runs_natively(link.linear) for link in links) or not all(_plain(t) for t in norms):
        return 0
    shapes = {tuple(link.linear.weight.shape) for link in links if type(link.linear) is nn.Linear}
    return min((native_up_to(*shape) for shape in shapes), default=2**62)


def _row_of(links: Sequence[Link], i: int) -> int:
    """How long a row of what link `i` writes is: outputs after one another stand side by side."""
    if links[i].role != "output":
        return links[i].linear.out_features
    first = last = i
    while first and links[first - 1].role == "output":
        first -= 1
    while last + 1 < len(links) and links[last + 1].role == "output":
        last += 1
    return sum(link.linear.out_features for link in links[first : last + 1])


def _norm(norm: RowNorm | None) -> native.Norm:
    if norm is None:
        return NOTHING
    kind = native.RMS if norm.kind == "rms" else native.LAYER
    return native.Norm(address(norm.weight), address(norm.bias), kind, norm.eps)


def _check(links: Sequence[Link]) -> None:
    for i, link in enumerate(links):
        if link.role not in ROLES or link.activation not in _ACTIVATIONS:
            known = f"{', '.join(ROLES)} and {', '.join(_ACTIVATIONS)}"
            raise ValueError(f"role {link.role!r}, activation {link.activation!r}: there are {known}")
        if link.role == "residual" and (link.before is not None or link.activation != "none"):
            raise ValueError("a residual link has no norm before it and no activation")
        if link.role != "residual" and link.after is not None:
            raise ValueError("only a residual link has a norm after it")
        if link.role == "gate" and (i == 0 or links[i - 1].role != "output" or links[i - 1].before is not link.before):
            raise ValueError("a gate follows an output on the same input")
        if link.role == "gate" and i > 1 and links[i - 2].role == "output":
            raise ValueError("a gate follows one output, not several side by side")
    if not links:
        raise ValueError("a chain has at least one link")
