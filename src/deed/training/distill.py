"""Self-distillation through a large vocabulary: the divergence from a teacher's likeliest tokens, its gradient made in the
same pass, so that logits live for one chunk of tokens only.

Of the teacher the likeliest `TOP` tokens are kept with their log-probabilities, and the mass of all others as one number
(`top_of`). A student matches these and that mass: among the other tokens it may share it as it likes. Exact where the
vocabulary is not larger than `TOP`; else a lower bound of the full divergence (data processing inequality).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

TOP = 64
CHUNK_LOGITS = 2**23  # tokens x vocabulary of one chunk
LEAST = 1e-7  # mass of the student's other tokens, below which it is not told apart from none

Head = Callable[[torch.Tensor], torch.Tensor]  # [n, d_model] to [n, vocab]


class Teacher(NamedTuple):
    """What a teacher says of each of `n` tokens.

    Attributes:
        ids: `[n, top]` long, likeliest first.
        logs: `[n, top]` float32, their log-probabilities.
        rest: `[n]` float32, the log of all other tokens' mass together; -inf where there is none.
    """

    ids: torch.Tensor
    logs: torch.Tensor
    rest: torch.Tensor

    def at(self, at: Any) -> Teacher:
        """Of some tokens."""
        return Teacher(self.ids[at], self.logs[at], self.rest[at])


def top_of(logits: torch.Tensor, top: int = TOP) -> Teacher:
    """The teacher of these logits.

    Args:
        logits: `[n, vocab]`.
        top: how many tokens are kept; all where the vocabulary is smaller.
    """
    logs = logits.float().log_softmax(-1)
    kept, ids = logs.topk(min(top, logs.shape[-1]), -1)
    rest = logs.scatter(-1, ids, float("-inf")).logsumexp(-1)
    return Teacher(ids, kept, rest)


def distill_sum(
    head: Head,
    features: torch.Tensor,
    teacher: Teacher,
    labels: torch.Tensor | None = None,
    label_share: float = 0.0,
) -> torch.Tensor:
    """The sum over tokens of (1 - share) * KL(teacher, student) + share * cross-entropy of the labels; a gradient reaches the
    features, none the head's own weights.

    Args:
        head: of the student; frozen.
        features: `[n, d_model]`.
        teacher: of the same tokens.
        labels: `[n]` long; needed where they have a share.
        label_share: 0..1.

    Returns:
        A scalar, float32.
    """
    if not len(features):
        return features.sum().float() * 0.0
    total: torch.Tensor = _HeadLoss.apply(features, head, teacher, labels, label_share)  # type: ignore[no-untyped-call]
    return total


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Any, head: Any, teacher: Any, labels: Any, share: float) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(features) if wanted else None
        total, start, size = (
            torch.zeros((), device=features.device),
            0,
            1,
        )  # the first token tells the vocabulary's size
        while start < len(features):
            at = slice(start, start + size)
            given = features[at].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                logits = head(given)
            losses, slope = divergence(
                logits.detach(), teacher.at(at), None if labels is None else labels[at], share, wanted
            )
            total += losses.sum()
            if gradient is not None:
                gradient[at] = torch.autograd.grad(logits, given, slope.to(logits.dtype))[0]  # type: ignore[union-attr]
            start, size = at.stop, max(1, CHUNK_LOGITS // logits.shape[-1])
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None, None


def divergence(
    logits: torch.Tensor, teacher: Teacher, labels: torch.Tensor | None, share: float, slope: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss of each token, and its gradient by the logits.

    With q the student's probabilities, p the teacher's, R the tokens that the teacher does not keep: the gradient of the
    divergence is q - p on the kept tokens and q * (1 - p(R) / q(R)) on the others.

    Args:
        logits: `[n, vocab]`.
        teacher, labels, share: as for `distill_sum`.
        slope: whether the gradient is wanted.

    Returns:
        `[n]`, and `[n, vocab]` float32 or None.
    """
    q = logits.float().log_softmax(-1)
    kept = q.gather(-1, teacher.ids)
    p, p_rest = teacher.logs.exp(), teacher.rest.exp()
    q_rest = (1 - kept.exp().sum(-1)).clamp(min=LEAST)
    some = p_rest > 0  # 0 * -inf is not a number
    losses = (p * (teacher.logs - kept)).sum(-1)
    losses = losses + torch.where(
        some, p_rest * (teacher.rest.clamp(min=-1e4) - q_rest.log()), torch.zeros_like(p_rest)
    )
    if share:
        assert labels is not None, "a share of the labels needs labels"
        losses = (1 - share) * losses - share * q.gather(-1, labels[:, None])[:, 0]
    if not slope:
        return losses, None
    q = q.exp_()
    on_kept = q.gather(-1, teacher.ids) - (1 - share) * p
    q *= ((1 - share) * (1 - p_rest / q_rest) + share)[:, None]
    q.scatter_(-1, teacher.ids, on_kept)
    if share:
        assert labels is not None
        q.scatter_add_(-1, labels[:, None], torch.full_like(q[:, :1], -share))
    return losses, q


def frozen_head(model: Any, half: bool) -> Head:
    """The model's head for `distill_sum`: with `half` by a bfloat16 copy of its weight, where it is a plain product.

    Args:
        model: a deed model whose head is not trained.
        half: compute in bfloat16, which processors with AMX do several times as fast.
    """
    family = model.deed_family

    def whole(features: torch.Tensor) -> torch.Tensor:
        return family.head(model, features)

    if not half:
        return whole
    try:
        weight, bias, factor = family.head_parts(model)
    except NotImplementedError:
        return whole
    with torch.no_grad():
        probe = torch.randn(2, weight.shape[1], dtype=weight.dtype, device=weight.device)
        if not torch.allclose(torch.nn.functional.linear(probe * factor, weight, bias), whole(probe), atol=1e-3):
            return whole  # there is more to it, such as a cap on the logits
    small = weight.detach().bfloat16()
    small_bias = None if bias is None else bias.detach().bfloat16()
    return lambda x: torch.nn.functional.linear((x * factor).bfloat16(), small, small_bias)
