"""What a draft head of low rank learns from: the model's own head on the same features.

Usable in a training loop beside the exits' own losses, on features that are detached; `deed.fit_draft_head` does it after one.
"""

from __future__ import annotations

import math

import torch

from deed.exits.draft_head import LowRankDraft

TOP = 64  # tokens of the teacher that count: the others have next to no probability
OTHERS = 4096  # drawn for all tokens that no position's teacher has


def teach(logits: torch.Tensor, top: int = TOP) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's best tokens `[n, top]` long and their probabilities `[n, top]` float32, over the whole vocabulary.

    Args:
        logits: `[n, vocab]`, of the model's own head.
        top: how many, at most the vocabulary.
    """
    probabilities, tokens = logits.float().softmax(-1).topk(min(top, logits.shape[-1]))
    return tokens, probabilities


def draft_loss(
    head: LowRankDraft,
    features: torch.Tensor,
    tokens: torch.Tensor,
    probabilities: torch.Tensor,
    others: int = OTHERS,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of the rough logits to the teacher's best tokens.

    The sum over the vocabulary is over the teacher's tokens of all positions and, for the rest, over some that are drawn, each
    standing for as many as were not: a step then takes a tenth of the time.

    Args:
        head: its tensors need gradients (`requires_grad_`), which they have not by default.
        features: `[n, d_model]`, detached.
        tokens, probabilities: of `teach`.
        others: how many are drawn.
        generator: draws them.
    """
    vocab, known = head.up.out_features, tokens.unique()
    left = torch.ones(vocab, dtype=torch.bool, device=tokens.device)
    left[known] = False
    rest = left.nonzero()[:, 0]
    if len(rest) > others:
        rest = rest[torch.randint(len(rest), (others,), generator=generator).to(rest.device)]
    at = torch.cat([known, rest])
    rough = torch.nn.functional.linear(head.down(features), head.up.weight[at], head.up.bias[at]).float()
    places = torch.searchsorted(known, tokens)
    stands_for = math.log(max(1.0, (vocab - len(known)) / max(1, len(rest))))
    weighted = torch.cat([rough[:, : len(known)], rough[:, len(known) :] + stands_for], -1)
    logs = rough.gather(-1, places) - weighted.logsumexp(-1, keepdim=True)
    return -(probabilities * logs).sum(-1).mean()
