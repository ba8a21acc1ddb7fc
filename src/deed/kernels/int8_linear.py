"""`nn.Linear` in int8, and several on the same input as one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .int8 import RowWise, kernel, weight_scale


class Int8Linear(nn.Module):
    """`nn.Linear` for inference on the CPU: int8 weights, activations quantised per row.

    Args:
        linear: what it stands for; not changed.
        scale: `[out]`, of weights that are multiples of it already.
        product: kernel and levels of activations; `kernel()` if not given.

    Attributes:
        weight: shape and dtype only (`meta` device), for code that asks a head for its size; `dequantize()` has values.
        scale: `[out]` float32, one step of each output's weights.
        levels: of activations to either side of zero.
        original: the weights as they were, where somebody reads single rows of them; usually None.
    """

    original: torch.Tensor | None = None

    def __init__(
        self, linear: nn.Linear, scale: torch.Tensor | None = None, product: tuple[Any, int] | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        weight = linear.weight.detach().float()
        self.scale = weight_scale(weight) if scale is None else scale
        build, self.levels = kernel() if product is None else product
        self.multiply = build(weight, self.scale, self.levels)
        self.weight = torch.empty(linear.weight.shape, dtype=torch.int8, device="meta")
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float().clone())
        self._row_wise: RowWise | None = None
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[…, in]` to `[…, out]`, in the dtype of `x`; the arithmetic is int8 with float32 scales."""
        if x.dtype != torch.float32:
            return self.forward(x.float()).to(x.dtype)
        if x.ndim == 1:
            return self.forward(x[None])[0]
        return self.row_wise()(x)

    def row_wise(self) -> RowWise:
        """The function it runs, of `[…, in]` float32."""
        bias: Any = self.bias
        if self._row_wise is None or self._row_wise.bias is not bias:
            self._row_wise = RowWise(self.multiply, bias)
        return self._row_wise

    def dequantize(self) -> torch.Tensor:
        """The weights it multiplies with, `[out, in]` float32."""
        return self.multiply(torch.eye(self.in_features)).T.contiguous()

    def extra_repr(self) -> str:
        """Sizes, as `nn.Linear` prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def train(self, mode: bool = True) -> Int8Linear:
        """Refuses training mode.

        Raises:
            ValueError: `mode` is true.
        """
        if mode:
            raise ValueError("a quantised model cannot be trained; train it before quantize()")
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        if fn(torch.empty(0)).device.type != "cpu":
            raise ValueError("a model quantised to int8 runs on the CPU only; move the unquantised model instead")
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            "a model quantised to int8 cannot be saved; save it before quantize(), and quantise after loading"
        )


# By the first one's packed weights, which copies of a model share and which never change: (those of all, as one).
_joined: weakref.WeakKeyDictionary[Any, tuple[list[Any], Int8Linear]] = weakref.WeakKeyDictionary()


def join(linears: Sequence[Int8Linear]) -> Int8Linear:
    """One whose output is theirs side by side, bit for bit: three small products take twice the time of one. It is made
    once, outside the modules; the three stay for `forward()`, so that this is a seventh more int8 weights in a decoder.

    Args:
        linears: on the same input, with as many levels; all with a bias or none.
    """
    products = [linear.multiply for linear in linears]
    kept = _joined.get(products[0])
    if kept is None or [ref() for ref in kept[0]] != products[1:]:
        kept = _joined[products[0]] = ([weakref.ref(product) for product in products[1:]], _side_by_side(linears))
    return kept[1]


@torch.no_grad()
def _side_by_side(linears: Sequence[Int8Linear]) -> Int8Linear:
    first, biased = linears[0], linears[0].bias is not None
    width = sum(linear.out_features for linear in linears)
    whole = nn.utils.skip_init(nn.Linear, first.in_features, width, bias=biased)
    whole.weight.copy_(torch.cat([linear.dequantize() for linear in linears]))
    if biased:
        biases: Any = [linear.bias for linear in linears]
        whole.bias.copy_(torch.cat(biases))
    scale = torch.cat([linear.scale for linear in linears])
    return Int8Linear(whole, scale, (type(first.multiply), first.levels))


def joinable(linears: Sequence[Any]) -> bool:
    """Whether `join` can make one of them."""
    if not all(type(linear) is Int8Linear for linear in linears):
        return False
    kinds = {(type(one.multiply), one.levels, one.in_features, one.bias is None) for one in linears}
    return len(kinds) == 1
