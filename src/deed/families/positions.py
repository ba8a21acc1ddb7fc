"""Position embeddings of any kind, called by what their own `forward` takes: positions, or ids and a number to count from."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from .base import by_starts


def placed(
    embedding: Any, ids: torch.Tensor, hidden: torch.Tensor, positions: torch.Tensor, column: bool = False
) -> torch.Tensor:
    """Position embeddings `[1 or rows, q, d_model]`, by the parameter names of the module's own `forward`.

    Args:
        embedding: the decoder's `embed_positions`.
        ids: `[rows, q]`; sinusoidal tables give padding tokens no position.
        hidden: `[rows, q, d_model]`, for shape and dtype.
        positions: `[1 or rows, q]`.
        column: the module takes positions as a column `[n, 1]`.
    """
    names = _parameters(type(embedding))  # type: ignore[arg-type]
    if "position_ids" not in names:  # it counts from a number on

        def place(ids: torch.Tensor, start: int) -> torch.Tensor:
            first = ids.shape if "input_ids_shape" in names else ids
            return embedding(first, past_key_values_length=start)

        return by_starts(place, ids, positions)
    at = positions.flatten()
    given = {
        "input_ids": ids,
        "input_ids_shape": ids.shape,
        "inputs_embeds": hidden.flatten(0, 1)[None, : len(at)],
        "position_ids": at[:, None] if column else at,
    }
    return embedding(**{name: x for name, x in given.items() if name in names}).view(*positions.shape, -1)


@functools.cache
def _parameters(embedding: type) -> tuple[str, ...]:
    return tuple(inspect.signature(embedding.forward).parameters)  # type: ignore[attr-defined]
