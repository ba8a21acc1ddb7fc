"""Which weights a model has, as two short texts: what exits were trained on, they can be held against.

Hashed are the weights rounded to float16 and to bfloat16. Both are told, so that a model loaded in half precision, or from a
checkpoint kept in it (as CTranslate2 keeps Whisper), is known as the same; a training step, however small, changes both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from .saving import PREFIX

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def base_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a model without those of its exits, by name.

    Args:
        model: with or without early exit.
    """
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(PREFIX):
            yield name, value


def fingerprint(model: Any, dtype: str) -> str:
    """SHA-256 of the base's floating-point weights, rounded; hexadecimal.

    Args:
        model: with or without early exit, on any device, not quantised to int8.
        dtype: of `DTYPES`.
    """
    digest = hashlib.sha256()
    for name, value in base_weights(model):
        if value.is_floating_point():
            rounded = value.detach().to(device="cpu", dtype=DTYPES[dtype]).contiguous()
            digest.update(f"{name} {list(value.shape)}\n".encode())
            digest.update(rounded.view(torch.int16).numpy().data)
    return digest.hexdigest()


def describe_base(model: Any) -> dict[str, Any]:
    """What is written down of a base model: its class, how many weights it has, and a fingerprint for each of `DTYPES`.

    Args:
        model: with or without early exit.
    """
    return {
        "class": type(model).__name__,
        "weights": count_weights(model),
        **{d: fingerprint(model, d) for d in DTYPES},
    }


def count_weights(model: Any) -> int:
    """How many numbers the base consists of, shared ones counted as often as they are named."""
    return sum(value.numel() for _, value in base_weights(model))


def is_base(model: Any, told: dict[str, Any]) -> bool:
    """Whether a model has the weights that `describe_base` told of, to within the rounding of half precision.

    Args:
        model: with or without early exit.
        told: as it was written down.
    """
    if told.get("class") != type(model).__name__ or told.get("weights") != count_weights(model):
        return False
    return any(told.get(dtype) == fingerprint(model, dtype) for dtype in DTYPES)
