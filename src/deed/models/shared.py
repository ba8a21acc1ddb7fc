"""What both models' code uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad_lists(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Lists of ids to `[rows, longest]`, padded at the right."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
