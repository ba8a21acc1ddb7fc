"""What both models' code uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Without Transformers' report of weights that are missing or left over, where that is what is meant."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def pad_lists(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Lists of ids to `[rows, longest]`, padded at the right."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
