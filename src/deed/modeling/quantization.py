"""`quantize`: int8 linears on the CPU, or bfloat16, in place.

A decoding step on a CPU takes as long as its weights take to arrive, so a quarter of the bytes is close to a quarter of
the time. Weights are rounded to int8 per output channel, activations on the fly **per row**, each position by its own
largest value: what a position gives must not depend on what else stands in its block, else the keys and values of a
catch-up block would not be those of a teacher-forced pass. (`torch.ao.quantization.quantize_dynamic` takes one scale for
the whole block, which breaks this.) Row i of a block equals the same row alone bit for bit, in every kernel used here.

Rounding has steps, though: where float32 arithmetic around the linears (attention over a block or over one position)
differs in its last digit, an activation can now and then round to the next step, 1/127 of its row's largest value away.
Depths and tokens then agree with the cache-free reference but for near-ties.

Kernels, fastest first. Times: the linears of a T5-base decoder layer (8.3 M weights), one Zen 4 core, weights not in its
cache. float32 takes 2.56 ms for one position and 3.86 for a block of eight; FBGEMM 0.67 and 0.87; `_int_mm` 1.03 and 1.57:

- FBGEMM by `torch.ops.quantized`, which quantises, multiplies and scales in one pass. The quantised dtypes that it packs
  weights from are deprecated in PyTorch 2.13 (pytorch#184982); once they are gone the next one is taken by itself;
- `torch._int_mm`, with the steps around it ours: what torchao's int8 configuration calls too, without its 0.3 ms of
  dispatch per linear.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from deed.families import family_of
from deed.kernels.int8 import kernel

PARTS = ("decoder", "encoder", "head")
DTYPES = ("int8", "bf16")

# Measured as above: a linear of 512 x 512 whose float32 weights are in the cache takes 23 us, in int8 27 us; out of the cache
# 110 and 30. Below, the six small operations of an int8 linear cost more than the bytes they save.
MIN_WEIGHTS = 2**18

_TINY = torch.finfo(torch.float32).tiny


def quantize(
    model: Any,
    dtype: str = "int8",
    parts: Sequence[str] = ("decoder", "head"),
    min_weights: int = MIN_WEIGHTS,
) -> Any:
    """Make `model` smaller and faster, in place, and return it. An int8 model can only infer from then on: no training, no
    saving (save before, quantise after loading), no move to another device.

    Args:
        model: a deed model, or a plain Transformers encoder-decoder model with a decoder family.
        dtype: "int8": int8 weights, activations quantised per row at run time; CPU only. "bf16": the whole model in
            bfloat16, what `from_pretrained(dtype=torch.bfloat16)` gives (T5's `wo` too: Transformers keeps it in float32
            for float16 only); it may be saved as such.
        parts: for int8, of "decoder" (every linear in the decoder layers, those for cross-attention keys and values
            among them), "head" (the LM head and the exits' adaptation modules; a tied embedding table stays as it is)
            and "encoder" (vision included).
        min_weights: smaller linears stay as they are, because int8 would be slower there; 0: none stays.

    Returns:
        The model, in evaluation mode. `model.deed_quantized` says what was done: dtype, parts, number of linears
        replaced and kept, levels of activations to either side of zero (127; 63 where the CPU has no VNNI).

    Raises:
        ValueError: an unknown dtype or part, a model that is quantised already, or int8 anywhere but on the CPU.
        TypeError: no decoder family for the model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if isinstance(parts, str) or not parts or set(parts) - set(PARTS):
        raise ValueError(f"parts must be a list out of {', '.join(PARTS)}, got {parts!r}")
    if isinstance(min_weights, bool) or not isinstance(min_weights, int) or min_weights < 0:
        raise ValueError(f"min_weights must be a whole number of at least 0, got {min_weights!r}")
    done = getattr(model, "deed_quantized", None)
    if done is not None:
        raise ValueError(f"the model is quantised already ({done}); start from the model as it was before")
    family = family_of(model)
    model.eval()
    if dtype == "bf16":
        return _to_bf16(model)

    head = model.get_output_embeddings()
    roots: dict[str, list[nn.Module]] = {
        "decoder": [family.layers(model)],
        "encoder": [model.get_encoder()],
        "head": [nn.ModuleList([head]), getattr(model, "deed_exits", nn.ModuleList())],
    }
    found = {id(m): m for part in parts for root in roots[part] for m in root.modules() if type(m) is nn.Linear}
    elsewhere = {str(m.weight.device) for m in found.values() if m.weight.device.type != "cpu"}
    if elsewhere:
        raise ValueError(
            f"int8 runs on the CPU only and the model is on {', '.join(elsewhere)}; use dtype='bf16' there"
        )
    chosen = {i: Int8Linear(m) for i, m in found.items() if m.weight.numel() >= min_weights}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in chosen:
                setattr(parent, name, chosen[id(child)])
    if not chosen:
        warnings.warn(
            f"no linear of {', '.join(parts)} has {min_weights} weights or more, so nothing was quantised: at this size "
            "float32 is faster (min_weights=0 quantises all the same)",
            stacklevel=2,
        )
    _join_projections(model, family)
    model.requires_grad_(False)
    model.deed_quantized = {
        "dtype": "int8",
        "parts": [part for part in PARTS if part in parts],
        "replaced": len(chosen),
        "kept": len(found) - len(chosen),
        "levels": kernel()[1],
    }
    return model


def _join_projections(model: Any, family: Any) -> None:
    """Query, key and value once more as one product, for decoding steps: three small products take twice the time of one.
    The three stay for `forward()`; together that is a seventh more int8 weights."""
    for layer in family.parts(model) or ():
        three = [layer.own.q, layer.own.k, layer.own.v]
        if all(type(linear) is Int8Linear for linear in three):
            vars(three[0])["joined"] = Int8Linear.join(three)  # no submodule: the same weights must not show twice


def _to_bf16(model: Any) -> Any:
    if model.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn("this CPU has no bfloat16 arithmetic: bf16 halves the memory but is slower here", stacklevel=3)
    model.to(torch.bfloat16)
    model.deed_quantized = {"dtype": "bf16", "parts": list(PARTS)}
    return model


class Int8Linear(nn.Module):
    """`nn.Linear` for inference on the CPU: int8 weights, activations quantised per row.

    Args:
        linear: what it stands for; not changed.
        scale: `[out]`, of weights that are multiples of it already.

    Attributes:
        weight: shape and dtype only (`meta` device), for code that asks a head for its size; `dequantize()` has values.
        scale: `[out]` float32, one step of each output's weights.
        joined: this one and others on the same input as one (`join`), or None.
    """

    def __init__(self, linear: nn.Linear, scale: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        weight = linear.weight.detach().float()
        self.scale = (weight.abs().amax(1) / 127).clamp_(min=_TINY) if scale is None else scale
        build, self.levels = kernel()
        self.multiply = build(weight, self.scale, self.levels)
        self.weight = torch.empty(linear.weight.shape, dtype=torch.int8, device="meta")
        self.joined: Int8Linear | None = None
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float().clone())
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[…, in]` to `[…, out]`, in the dtype of `x`; the arithmetic is int8 with float32 scales."""
        if x.dtype != torch.float32:
            return self.forward(x.float()).to(x.dtype)
        if x.ndim == 1:
            return self.forward(x[None])[0]
        largest = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True).clamp_min_(_TINY)
        # Products and sums stay apart: fused, they would round differently in the tail of a vector than in its body,
        # and a row's place in the block would show.
        y = self.multiply(x / largest).mul_(largest)
        return y if self.bias is None else y.add_(self.bias)

    @classmethod
    def join(cls, linears: Sequence[Int8Linear]) -> Int8Linear:
        """One whose output is theirs side by side, bit for bit."""
        width, biased = sum(linear.out_features for linear in linears), linears[0].bias is not None
        with torch.no_grad():
            whole = nn.utils.skip_init(nn.Linear, linears[0].in_features, width, bias=biased)
            whole.weight.copy_(torch.cat([linear.dequantize() for linear in linears]))
            if biased:
                biases: Any = [linear.bias for linear in linears]
                whole.bias.copy_(torch.cat(biases))
            return cls(whole, torch.cat([linear.scale for linear in linears]))

    def dequantize(self) -> torch.Tensor:
        """The weights it multiplies with, `[out, in]` float32."""
        return self.multiply(torch.eye(self.in_features)).T.contiguous()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def train(self, mode: bool = True) -> Int8Linear:
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
