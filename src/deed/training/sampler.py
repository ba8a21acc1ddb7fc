"""Batches of like length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class BucketSampler(Sampler[int]):
    """Batches of like length in random order, so that little of a batch is padding; the same for a seed and an epoch.

    Args:
        lengths: of the examples.
        batch_size: examples per batch.
        seed: of the order.
        pool: batches drawn at once and sorted by length.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int, pool: int = 50) -> None:
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate: another order for each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size, batches = self.batch_size * self.pool, []
        for at in range(0, len(order), size):
            pool = sorted(order[at : at + size], key=lambda i: self.lengths[i])
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        # The one short batch stays last: elsewhere it would shift the borders of all batches after it.
        tail = [batches.pop(i) for i in range(len(batches)) if len(batches[i]) < self.batch_size][:1]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        for batch in tail:
            yield from batch
