"""A fresh LaTr++ with a late question that looks things up and copies from its first step.

Answering "which word comes after X Y?" takes a chain: every token knows what stands beside it; a question's token finds its
like on the page and takes what follows there; the decoder reads that off the question's last word; and it goes on copying the
page from there. None of these helps before the others do (induction heads: Olsson et al., 2022), and a training on thousands
of pieces waits for them for longer than a CPU has time: `docs/latr.md` has the figures. Here heads share random subspaces from
the start, so that the chain is there; all weights stay free.

Four subspaces of the encoder's states, a head's width each: what a token is told of the one before it, of the one before that,
of the one behind it, and what it has looked up on the page.
"""

from __future__ import annotations

from typing import Any

import torch

from .modeling_latr import LatrForConditionalGeneration

BESIDE = 10.0  # bias of the neighbor's place: on a page of 1,000 tokens e^3 would leave it 2 % of the attention
AWAY = (
    8.0  # what a question's head takes off all tokens but the page's; twice that off the token itself, its best match
)
LOUD = 2.0  # size of what heads tell, where a token's own embedding has 1
LEAST = 5  # heads, and subspaces


@torch.no_grad()
def wire_look_up(model: LatrForConditionalGeneration, copies: int = 4, picks: int = 2) -> None:
    """Wire a fresh model; one of fewer than five heads, or narrower than five of them, is left as it is.

    - Encoder, first layer: the first two heads tell each token of the one before it and of the one behind it. Second layer:
      the first tells it of the one before that.
    - Encoder, from the second layer on: the last heads, a quarter of them, look from a question's token for the page's token
      that is the same and stands behind the same, and take what that was told of the token behind it.
    - Decoder, first layer: one head tells each token of the one before it. The first heads on the page look for the token that
      stands behind these two, and write it; the next ones write what a question's token has looked up: whose, they have to
      learn.

    Args:
        model: of `small.build_model(…, question="late")`, with a tied head.
        copies: heads that copy, at most half of the decoder's.
        picks: heads that write what was looked up.
    """
    config: Any = model.config
    size, width, heads = config.d_kv, config.d_model, config.num_heads
    if min(heads, width // size) < LEAST:
        return
    basis, other = (torch.linalg.qr(torch.randn(width, width)).Q for _ in range(2))
    as_before, told_before, told_behind, told_twice, found = basis[: LEAST * size].split(size)
    as_behind = other[:size]

    layers: list[Any] = [block.layer[0].SelfAttention for block in model.encoder.block]  # type: ignore[union-attr, index]
    beside = layers[0].relative_attention_bias.weight  # [buckets, heads], of all layers
    beside[1, 0] = beside[beside.shape[0] // 2 + 1, 1] = BESIDE
    finders = max(1, heads // 4)
    beside[:, -finders:] = -AWAY
    beside[0, -finders:] = -2 * AWAY
    _carry(layers[0], 0, as_before, told_before)
    _carry(layers[0], 1, as_behind, told_behind)
    layers[0].q.weight[: 2 * size] *= 0.1  # places alone are to decide
    if len(layers) > 1:
        _carry(layers[1], 0, told_before, told_twice)
        layers[1].q.weight[:size] *= 0.1
    half = size // 2
    for layer in layers[1:]:
        for i in range(finders):
            _carry(layer, heads - 1 - i, told_behind, found)
            mine, before = as_before.roll(i * half, 0), told_before.roll(i * half, 0)
            _match(layer, heads - 1 - i, (mine, mine, 2.0), (before, before, 0.5))

    own: Any = model.decoder.block[0].layer[0].SelfAttention  # type: ignore[union-attr, index]
    own.relative_attention_bias.weight[1, 0] = BESIDE
    own.q.weight[:size] *= 0.1
    _carry(own, 0, as_before, told_before)
    page: Any = model.decoder.block[0].layer[1].EncDecAttention  # type: ignore[union-attr, index]
    copies = min(copies, heads // 2)
    for head in range(copies):
        written = torch.linalg.qr(torch.randn(width, width)).Q[:size]
        _carry(page, head, written, written)
        one, two, three = (space.roll(head % 2 * half, 0) for space in (as_before, told_before, told_twice))
        _match(page, head, (one, two, 0.5), (two, three, 0.2))
    for head in range(copies, copies + picks):
        _carry(page, head, found, as_behind)
        page.k.weight[head * size : (head + 1) * size] = told_behind


def _carry(attention: Any, head: int, read: torch.Tensor, written: torch.Tensor) -> None:
    """Let a head read one subspace of the tokens that it looks at and write it into another: `[d_kv, d_model]` each."""
    rows = slice(head * len(read), (head + 1) * len(read))
    attention.v.weight[rows] = read
    attention.o.weight[:, rows] = LOUD * written.T


def _match(attention: Any, head: int, *pairs: tuple[torch.Tensor, torch.Tensor, float]) -> None:
    """Let a head look where what one subspace of the asking token holds is what another of the page's tokens holds.

    Args:
        attention: whose head.
        head: which.
        pairs: each with its weight; they share the head's width.
    """
    part = attention.key_value_proj_dim // len(pairs)
    for i, (asks, holds, weight) in enumerate(pairs):
        rows = slice(
            head * attention.key_value_proj_dim + i * part, head * attention.key_value_proj_dim + (i + 1) * part
        )
        attention.q.weight[rows], attention.k.weight[rows] = weight * asks[:part], holds[:part]


__all__ = ["wire_look_up"]
