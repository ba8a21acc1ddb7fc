"""Deep supervision: `L = L_avg + L_N` over the exits, one exit's logits alive at a time.

L_avg is the mean over all exits of the token cross-entropy, L_N the last exit's once more (DEED, section 3.2: the mean
alone costs the last layer accuracy). A chunk of logits is recomputed in the backward pass instead of being kept, so
peak memory does not grow with exits x vocabulary; `docs/method.md` has the measured figures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORE = -100
# Logit elements (tokens x vocabulary) that all exits together may keep for the backward pass: 32 MiB of fp32.
KEEP_LOGITS = 2**23
# Tokens x vocabulary of one recomputed chunk.
CHUNK_LOGITS = 2**24


def token_loss_sum(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    labels: torch.Tensor,
    n_exits: int = 1,
    teacher: torch.Tensor | None = None,
) -> torch.Tensor:
    """Summed cross-entropy of one exit over the labelled tokens, in fp32.

    Args:
        head: maps `[n, d_model]` to `[n, vocab]` logits.
        hidden: `[batch, length, d_model]`.
        labels: `[batch, length]` long, -100 is ignored.
        n_exits: how many exits share the budget of kept logits.
        teacher: `[labelled tokens, vocab]` logits to match instead of the labels (which still say where).
    """
    keep = labels != IGNORE
    hidden, labels = hidden[keep], labels[keep]
    targets = labels if teacher is None else teacher
    if len(labels) == 0:
        return hidden.sum() * 0.0  # keeps the graph, so that every process of a distributed run has gradients

    def chunk_loss(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y if teacher is None else y.float().softmax(-1)
        return F.cross_entropy(head(h).float(), y, reduction="sum")

    vocab = _vocab_size(head, hidden)
    size = max(1, CHUNK_LOGITS // vocab)
    keep_all = len(labels) * vocab <= KEEP_LOGITS // n_exits or not torch.is_grad_enabled()
    parts = [
        chunk_loss(h, y) if keep_all else checkpoint(chunk_loss, h, y, use_reentrant=False)
        for h, y in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.stack(parts).sum()


def _vocab_size(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor) -> int:
    size = getattr(head, "vocab_size", None)
    if size is None:
        with torch.no_grad():
            size = head(hidden[:1]).shape[-1]
    return size


def combine(exit_losses: torch.Tensor, kind: str = "deed") -> torch.Tensor:
    """The training loss from `[n_exits]` losses: `"deed"` L_avg + L_N, `"mean"` L_avg, `"last"` L_N, `"distill"` the
    mean without the last (whose exits match the last one's probabilities)."""
    if kind == "last":
        return exit_losses[-1]
    if kind == "distill":
        return exit_losses[:-1].mean()
    mean = exit_losses.mean()
    return mean if kind == "mean" else mean + exit_losses[-1]


def normaliser(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """What the token sums are divided by: the labelled tokens here, or Trainer's count over the accumulated batch."""
    if num_items_in_batch is None:
        return (labels != IGNORE).sum().clamp(min=1)
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.to(labels.device)
    return float(num_items_in_batch)
