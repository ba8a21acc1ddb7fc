"""`quantize`: int8 linears on the CPU, or bfloat16, in place.

A decoding step on a CPU takes as long as its weights take to arrive, so a quarter of the bytes is close to a quarter of
the time. Weights are rounded to int8 per output channel, activations on the fly **per row**, each position by its own
largest value: what a position gives must not depend on what else stands in its block, else the keys and values of a
catch-up block would not be those of a teacher-forced pass. (`torch.ao.quantization.quantize_dynamic` takes one scale for
the whole block, which breaks this.) Row i of a block equals the same row alone bit for bit, in every kernel used here.

Rounding has steps, though: where float32 arithmetic around the linears (attention over a block or over one position)
differs in its last digit, an activation can now and then round to the next step, 1/127 of its row's largest value away.
Depths and tokens then agree with the cache-free reference but for near-ties.

Which kernel multiplies, and whether it is faster than float32, is measured for each shape (`deed.kernels`); a linear that
int8 would make slower stays in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.families import family_of
from deed.kernels.int8 import faster_than_float32, kernel
from deed.kernels.int8_linear import Int8Linear

PARTS = ("decoder", "encoder", "head")
DTYPES = ("int8", "bf16")

# A linear of 512 x 512 whose float32 weights are in the cache takes 23 us, in int8 27 us; out of the cache 110 and 30 (Zen 4,
# one core). Below, the six small operations of an int8 linear cost more than the bytes they save.
MIN_WEIGHTS = 2**18


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
            and those of exits' own layers among them), "head" (the LM head, the draft head and the exits' other adaptation
            modules; a tied embedding table stays as it is)
            and "encoder" (vision included).
        min_weights: smaller linears stay as they are, because int8 would be slower there; 0: none stays for its size.

    Returns:
        The model, in evaluation mode. `model.deed_quantized` says what was done: dtype, parts, number of linears
        replaced and kept (the small ones, and those for which int8 is slower than float32 on this machine), kernels, and
        the least levels of activations to either side of zero (127; 63 where the CPU has no VNNI).

    Raises:
        ValueError: an unknown dtype or part, a model that is quantised already, or int8 anywhere but on the CPU.
        TypeError: no decoder family for the model.

    Example:
        ```python
        fast = deed.quantize(model, "int8", parts=("decoder", "head"))  # in place; on a CPU, to generate only
        tokens = fast.generate(**inputs, max_new_tokens=8)
        ```
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
    exits: Any = getattr(model, "deed_exits", {})
    own = [module for name, module in exits.items() if name != DRAFT_HEAD]
    draft = [module for name, module in exits.items() if name == DRAFT_HEAD]
    has_layers = bool(own) and model.deed_config.adapter == "layer"
    roots: dict[str, list[nn.Module]] = {
        "decoder": [family.layers(model), *(own if has_layers else [])],
        "encoder": [model.get_encoder()],
        "head": [nn.ModuleList([head]), *draft, *([] if has_layers else own)],
    }
    found = {id(m): m for part in parts for root in roots[part] for m in root.modules() if type(m) is nn.Linear}
    elsewhere = {str(m.weight.device) for m in found.values() if m.weight.device.type != "cpu"}
    if elsewhere:
        raise ValueError(
            f"int8 runs on the CPU only and the model is on {', '.join(elsewhere)}; use dtype='bf16' there"
        )
    large = {i: m for i, m in found.items() if m.weight.numel() >= min_weights}
    kernels = {i: _kernel_for(m) for i, m in large.items()}
    chosen = {i: Int8Linear(m, product=kernels[i]) for i, m in large.items() if kernels[i] is not None}
    if id(head) in chosen and draft:
        chosen[id(head)].original = head.weight.detach()  # single rows of it are read, as they are
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in chosen:
                setattr(parent, name, chosen[id(child)])
    slower = sorted({f"{m.out_features} x {m.in_features}" for i, m in large.items() if i not in chosen})
    if slower:
        warnings.warn(
            f"int8 is slower than float32 on this machine for linears of {', '.join(slower)}, which stay in float32 "
            f"({len(large) - len(chosen)} of {len(large)}; DEED_KERNELS=fixed quantises without measuring)",
            stacklevel=2,
        )
    if not large:
        warnings.warn(
            f"no linear of {', '.join(parts)} has {min_weights} weights or more, so nothing was quantised: at this size "
            "float32 is faster (min_weights=0 quantises all the same)",
            stacklevel=2,
        )
    model.requires_grad_(False)
    model.deed_quantized = {
        "dtype": "int8",
        "parts": [part for part in PARTS if part in parts],
        "replaced": len(chosen),
        "kept": len(found) - len(chosen),
        "levels": min((linear.levels for linear in chosen.values()), default=kernel()[1]),
        "kernels": sorted({type(linear.multiply).__name__ for linear in chosen.values()}),
    }
    return model


def _kernel_for(linear: nn.Linear) -> tuple[Any, int] | None:
    """Kernel and levels for a linear; None where it stays. Below `MIN_WEIGHTS` nothing is measured: the caller wants it."""
    if linear.weight.numel() < MIN_WEIGHTS:
        return kernel()
    return faster_than_float32(linear.out_features, linear.in_features)


def _to_bf16(model: Any) -> Any:
    if model.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn("this CPU has no bfloat16 arithmetic: bf16 halves the memory but is slower here", stacklevel=3)
    model.to(torch.bfloat16)
    model.deed_quantized = {"dtype": "bf16", "parts": list(PARTS)}
    return model
