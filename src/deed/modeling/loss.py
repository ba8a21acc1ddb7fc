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

from deed.constants import IGNORE_INDEX

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
    allowed: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Summed cross-entropy of one exit over the labelled tokens, in fp32.

    With `allowed`, probabilities are taken among those tokens only, as a constrained generation takes them: no other
    token's logit has a gradient. Smoothing gives the label 1 - `smoothing` and shares the rest among the others of these.

    Args:
        head: maps `[n, d_model]` to `[n, vocab]` logits.
        hidden: `[batch, length, d_model]`.
        labels: `[batch, length]` long, -100 is ignored.
        n_exits: how many exits share the budget of kept logits.
        teacher: `[labelled tokens, vocab]` logits to match instead of the labels (which still say where); not smoothed.
        allowed: per label the tokens it is chosen from: bool `[batch, length, vocab]`, or their ids `[batch, length, most]`,
            filled up with -1, none where all are open (`models.ofa.allowed_tokens` makes them of a trie).
    """
    keep = labels != IGNORE_INDEX
    hidden, labels = hidden[keep], labels[keep]
    targets = labels if teacher is None else teacher
    open_to = None if allowed is None else allowed.to(keep.device)[keep]
    if len(labels) == 0:
        return hidden.sum() * 0.0  # keeps the graph, so that every process of a distributed run has gradients

    def chunk_loss(h: torch.Tensor, y: torch.Tensor, a: torch.Tensor | None) -> torch.Tensor:
        logits = head(h).float()
        y = y if teacher is None else y.float()
        mask = None if a is None else allowed_mask(a, logits.shape[-1])
        if mask is not None:
            # Not -inf, whose product with a probability of 0 is NaN.
            least = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~mask, least)
            y = y if teacher is None else y.masked_fill(~mask, least)
        if smoothing and teacher is None:
            return _smoothed(logits, y, mask, smoothing)
        return F.cross_entropy(logits, y if teacher is None else y.softmax(-1), reduction="sum")

    vocab = _vocab_size(head, hidden)
    size = max(1, CHUNK_LOGITS // vocab)
    keep_all = len(labels) * vocab <= KEEP_LOGITS // n_exits or not torch.is_grad_enabled()
    hs, ys = hidden.split(size), targets.split(size)
    opens = [None] * len(hs) if open_to is None else open_to.split(size)
    parts = [
        chunk_loss(*part) if keep_all else checkpoint(chunk_loss, *part, use_reentrant=False)
        for part in zip(hs, ys, opens, strict=True)
    ]
    return torch.stack(parts).sum()


def allowed_mask(allowed: torch.Tensor, vocab: int) -> torch.Tensor:
    """`[n, vocab]` bool from such a mask, or from ids `[n, most]` filled up with -1 (none: all)."""
    if allowed.dtype == torch.bool:
        return allowed
    mask = torch.zeros(len(allowed), vocab + 1, dtype=torch.bool, device=allowed.device)
    mask.scatter_(1, allowed.masked_fill(allowed < 0, vocab), True)  # the last column receives the padding ids
    return mask[:, :vocab] | (allowed < 0).all(1, keepdim=True)


def check_allowed(allowed: torch.Tensor, labels: torch.Tensor, vocab: int) -> None:
    """Raises `ValueError` where `allowed` does not fit the labels, or leaves out one of them.

    Args:
        allowed: see `token_loss_sum`.
        labels: `[batch, length]` long.
        vocab: number of tokens.
    """
    masks = allowed.dtype == torch.bool
    wanted = "[batch, length, vocab] bool" if masks else "[batch, length, most] ids"
    if allowed.ndim != 3 or allowed.shape[:2] != labels.shape or (masks and allowed.shape[2] != vocab):
        raise ValueError(
            f"allowed_tokens must be {wanted} for labels {[*labels.shape]} and {vocab} tokens, got {[*allowed.shape]}"
        )
    if allowed.dtype not in (torch.bool, torch.long) or (not masks and allowed.numel() and allowed.max() >= vocab):
        raise ValueError(f"allowed_tokens must be bool, or ids below {vocab} as int64, got {allowed.dtype}")
    keep = labels != IGNORE_INDEX
    ids, places = labels[keep], allowed.to(labels.device)[keep]
    if masks:
        fits = places.gather(1, ids[:, None])[:, 0]
    else:
        fits = (places == ids[:, None]).any(1) | (places < 0).all(1)
    if not fits.all():
        raise ValueError(f"label {int(ids[~fits][0])} is not among the tokens allowed in its place")


def _smoothed(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None, smoothing: float) -> torch.Tensor:
    """As the original of OFA does; where the label is the only token allowed, nothing is to be learnt."""
    logs = logits.log_softmax(-1)
    if mask is None:
        others, total = logits.shape[-1] - 1, logs.sum(-1)
        share = torch.full_like(total, smoothing / max(1, others))
    else:
        total = logs.masked_fill(~mask, 0.0).sum(-1)
        share = smoothing / (mask.sum(-1) - 1).clamp(min=1)
    right = logs.gather(-1, labels[:, None])[:, 0]
    return -((1 - smoothing - share) * right + share * total).sum()


def _vocab_size(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor) -> int:
    size = getattr(head, "vocab_size", None)
    if size is None:
        with torch.no_grad():
            size = head(hidden[:1]).shape[-1]
    return size


def combine(exit_losses: torch.Tensor, kind: str = "deed") -> torch.Tensor:
    """The training loss from `[n_exits]` losses: `"deed"` L_avg + L_N, `"mean"` L_avg, `"last"` L_N, `"rising"` the mean
    weighted by the exit's number (CALM, Schuster et al. 2022, eq. 3) + L_N, `"distill"` the mean without the last (whose
    exits match the last one's probabilities)."""
    if kind == "last":
        return exit_losses[-1]
    if kind == "distill":
        return exit_losses[:-1].mean()
    if kind == "rising":
        weights = torch.arange(1, len(exit_losses) + 1, device=exit_losses.device)
        return (weights * exit_losses).sum() / weights.sum() + exit_losses[-1]
    mean = exit_losses.mean()
    return mean if kind == "mean" else mean + exit_losses[-1]


def normalizer(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """What the token sums are divided by: the labelled tokens here, or Trainer's count over the accumulated batch; at least 1,
    so that a batch without labels has the loss 0 and not 0 / 0.

    Args:
        labels: `[batch, length]` long, -100 is ignored.
        num_items_in_batch: Trainer's count; None: not given.
    """
    if num_items_in_batch is None:
        return (labels != IGNORE_INDEX).sum().clamp(min=1)
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.to(labels.device).clamp(min=1)
    return max(1.0, float(num_items_in_batch))
