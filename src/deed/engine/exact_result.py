"""What exact decoding decoded: rows of different length side by side, and what drafting came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .exact_row import Row


class Exact(NamedTuple):
    """What `decode_exactly` decoded.

    Attributes:
        sequences: `[rows, prompt + new]` ids.
        scores, logits: per step `[rows, vocab]`, the last layer's, processed and raw; None where they are not asked for.
        exit_layers: `[rows, new]` long: the depth of the draft that stood, the last layer where its own token was taken, 0
            after a row has finished.
        accepted: `[rows]` long, drafts that stood.
    """

    sequences: torch.Tensor
    scores: tuple[torch.Tensor, ...] | None
    logits: tuple[torch.Tensor, ...] | None
    exit_layers: torch.Tensor
    accepted: torch.Tensor


def side_by_side(
    rows: Sequence[Row], prompt: int, pad: int, device: torch.device, scores: bool = False, logits: bool = False
) -> Exact:
    """Finished rows as `Exact`; what a row decoded beyond the last one's end is left out.

    Args:
        rows: of the batch.
        prompt: tokens before the new ones.
        pad: what follows a row's end.
        device: of the ids.
        scores, logits: whether rows have kept them.
    """
    total = max(row.ended or 0 for row in rows)
    new = total - prompt
    ids = [[*row.tokens[:total], *[pad] * (total - len(row.tokens))] for row in rows]
    depths = [[d if prompt + t < (row.ended or 0) else 0 for t, d in enumerate(row.depths[:new])] for row in rows]
    depths = [[*d, *[0] * (new - len(d))] for d in depths]

    def steps(each: list[list[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        none = torch.zeros_like(each[0][0])
        return tuple(torch.stack([x[t] if t < len(x) else none for x in each]) for t in range(new))

    return Exact(
        torch.tensor(ids, device=device),
        steps([row.scores for row in rows]) if scores else None,
        steps([row.logits for row in rows]) if logits else None,
        torch.tensor(depths, device=device),
        torch.tensor([row.accepted for row in rows], device=device),
    )


def counts_of(rows: Sequence[Row]) -> dict[str, int]:
    """Drafts of all rows, those that stood, and rows for which drafts did not pay."""
    return {
        "drafted_tokens": sum(row.drafted for row in rows),
        "accepted_tokens": sum(row.accepted for row in rows),
        "rows_without_drafts": sum(row.stopped for row in rows),
    }


__all__ = ["Exact", "counts_of", "side_by_side"]
