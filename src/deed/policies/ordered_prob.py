"""Confidence in a token that stands for a place on a scale, as OFA's location bins do.

A coordinate between two bins is right either way: its probability is shared by neighbours and stays small however sure the
model is where the edge lies. So what counts is how much lies close to the likeliest bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from deed.errors import DeedConfigError

if TYPE_CHECKING:
    from .query import ExitQuery


@dataclass(frozen=True)
class OrderedProb:
    """Largest softmax probability; where the likeliest token is one of a scale, the probability of all within a distance.

    Args:
        first: id of the scale's lowest token; the others follow.
        count: tokens of the scale.
        within: how many tokens apart is still as good.
    """

    first: int
    count: int
    within: int = 2
    needs_history = False

    def __post_init__(self) -> None:
        for name, least in (("first", 0), ("count", 1), ("within", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DeedConfigError(f"confidence ordered_prob: {name} must be an integer >= {least}, got {value!r}")

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        """Confidence `[r]`.

        Raises:
            ValueError: the scale goes beyond the vocabulary.
        """
        probabilities = query.masked_logits.softmax(-1)
        if self.first + self.count > probabilities.shape[-1]:
            raise ValueError(
                f"confidence ordered_prob: tokens {self.first} to {self.first + self.count - 1} are beyond the vocabulary of "
                f"{probabilities.shape[-1]}"
            )
        largest, token = probabilities.max(-1)
        place = token - self.first
        scale = probabilities[:, self.first : self.first + self.count]
        near = (torch.arange(self.count, device=place.device) - place[:, None]).abs() <= self.within
        close = torch.where(near, scale, 0).sum(-1).clamp(max=1)
        return torch.where((place >= 0) & (place < self.count), close, largest)
