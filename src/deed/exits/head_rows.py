"""A model's generation head as numbers: its weight, single rows of it, its main directions; what is computed from them is kept
with the model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch


class HeadCopies:
    """Copies of one model's head, kept from generation to generation. The model carries it from `get_deed_model` on; it is
    never part of the state dict, and a copy of the model begins with an empty one.

    Args:
        most: copies kept at a time: a sweep over options must not fill the memory.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._kept: dict[Any, tuple[Any, Any, Any]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.most,)

    def get(self, key: Any, sources: list[torch.Tensor], make: Callable[[], Any]) -> Any:
        """`make()`, kept until a source is replaced or changed in place (`tensor.data.copy_`, which PyTorch does not count,
        goes unseen).

        Args:
            key: says which copy it is.
            sources: the tensors that it is made from.
            make: makes it.
        """
        # The sources are kept along, so that their memory is not reused for another tensor.
        state = [(s.data_ptr(), 0 if s.is_inference() else s._version, s.dtype, s.device, s.shape) for s in sources]
        with self._lock:
            found = self._kept.get(key)
            if found is None or found[0] != state:
                self._kept.pop(key, None)
                with torch.no_grad():
                    found = self._kept[key] = (state, make(), sources)
                while len(self._kept) > self.most:
                    self._kept.pop(next(iter(self._kept)))
            return found[1]


def copies_of(model: Any) -> HeadCopies:
    """The model's copies of its head; of a plain model new ones."""
    return getattr(model, "deed_head_copies", None) or HeadCopies()


def head_parts(model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float, bool]:
    """`DecoderFamily.head_parts`, and whether the head is a quantized one, whose weight is then written out once."""
    weight, bias, scale = model.deed_family.head_parts(model)
    if not weight.is_meta:
        return weight.detach(), bias, scale, False
    head = model.get_output_embeddings()
    if getattr(head, "original", None) is not None:
        return head.original, bias, scale, True
    return copies_of(model).get("written out", [weight], head.dequantize), bias, scale, True


def principal_directions(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """`[rank, d]` orthonormal: the leading right singular vectors of `weight` `[V, d]` about its mean."""
    centered = weight - weight.mean(0)
    _, vectors = torch.linalg.eigh((centered.T @ centered).double())
    return vectors.flip(-1)[:, :rank].T.to(weight.dtype)


def gathered_logits(
    weight: torch.Tensor, bias: torch.Tensor | None, scale: float, features: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Exact logits of some tokens alone.

    Args:
        weight: the head's, `[vocab, d_model]`.
        bias: `[vocab]` or None.
        scale: the head's factor on the features.
        features: `[r, d_model]`, what the head gets.
        tokens: `[r, k]` long.

    Returns:
        `[r, k]`, in the weight's dtype.
    """
    if scale != 1:
        features = features * scale
    rows = torch.nn.functional.embedding(tokens, weight)  # [r, k, d]
    logits = torch.matmul(rows, features[:, :, None])[:, :, 0]
    return logits if bias is None else logits + bias[tokens]
