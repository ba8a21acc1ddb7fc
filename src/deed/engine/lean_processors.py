"""Transformers' processors that suppress tokens, without looking through the whole vocabulary for them at every step.

`SuppressTokensLogitsProcessor` and `SuppressTokensAtBeginLogitsProcessor` (5.23, generation/logits_process.py) find their
tokens by `torch.isin` over all ids, which sorts these: 3 ms each at every step for Whisper's 51,865, half of its decoder's
time. Which ids they are is known; so these write `-inf` there and give the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)


class LeanSuppress(SuppressTokensLogitsProcessor):
    """The tokens' scores become `-inf`.

    Args:
        other: Transformers' own processor, with its tokens.
    """

    is_stateless = True

    def __init__(self, other: SuppressTokensLogitsProcessor) -> None:
        self.__dict__.update(vars(other))
        self._at = Places(other.suppress_tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab]`, new."""
        return scores.index_fill(-1, self._at(scores), -torch.inf)

    def of_cells(self, lengths: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
        """The same `[cells, vocab]` for prefixes of any lengths."""
        return scores.index_fill(-1, self._at(scores), -torch.inf)


class LeanSuppressAtBegin(SuppressTokensAtBeginLogitsProcessor):
    """The tokens' scores become `-inf` where as many tokens were given as there are before an answer begins.

    Args:
        other: Transformers' own processor, with its tokens.
    """

    is_stateless = True

    def __init__(self, other: SuppressTokensAtBeginLogitsProcessor) -> None:
        self.__dict__.update(vars(other))
        self._at = Places(other.begin_suppress_tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab]`; elsewhere the same tensor."""
        if input_ids.shape[-1] != self.begin_index:
            return scores
        return scores.index_fill(-1, self._at(scores), -torch.inf)

    def of_cells(self, lengths: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
        """The same `[cells, vocab]` for prefixes of these lengths."""
        at = [i for i, length in enumerate(lengths) if length == self.begin_index]
        if not at:
            return scores
        found = scores.clone()
        found[at] = found[at].index_fill(-1, self._at(scores), -torch.inf)
        return found


class Places:
    """Those of some ids that a vocabulary has, found once.

    Args:
        ids: any whole numbers.
    """

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids.reshape(-1)
        self.found: dict[tuple[int, torch.device], torch.Tensor] = {}

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Ids `[n]`, on the device of the scores `[rows, vocab]`."""
        key = scores.shape[-1], scores.device
        if key not in self.found:
            ids = self.ids.to(scores.device)
            self.found[key] = ids[(ids >= 0) & (ids < key[0])].long()
        return self.found[key]


KINDS: dict[type, Any] = {
    SuppressTokensLogitsProcessor: LeanSuppress,
    SuppressTokensAtBeginLogitsProcessor: LeanSuppressAtBegin,
}


def lean_processors(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The processors in their order, those that are known in their lean form; a class that is derived from one stays.

    Args:
        processors: of one generation.
    """
    return LogitsProcessorList([KINDS[type(p)](p) if type(p) in KINDS else p for p in processors])
