"""What a draft head learns from: the model's own head on the same features.

Usable in a training loop beside the exits' own losses, on features that are detached; `deed.fit_draft_head` does it after one.
"""

from __future__ import annotations

import torch

TOP = 64  # tokens of the teacher that count: the others have next to no probability


def teach(logits: torch.Tensor, top: int = TOP) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's best tokens `[n, top]` long and their probabilities `[n, top]` float32, over the whole vocabulary.

    Args:
        logits: `[n, vocab]`, of the model's own head.
        top: how many, at most the vocabulary.
    """
    probabilities, tokens = logits.float().softmax(-1).topk(min(top, logits.shape[-1]))
    return tokens, probabilities


def draft_loss(rough: torch.Tensor, tokens: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of rough logits to the teacher's best tokens.

    Args:
        rough: `[n, vocab]`, of `LowRankDraft.rough` on detached features.
        tokens: `[n, top]` long, `probabilities` float32 likewise, of `teach`.
    """
    logs = rough.float().log_softmax(-1).gather(-1, tokens)
    return -(probabilities * logs).sum(-1).mean()
