"""One decoding step: walk down the layers, ask the exits, let rows leave.

This is the only module that knows of rows and layers at once. For each layer the staircase hands out the pending block,
the family runs its layer on it, the staircase takes the result; at an exit, the head gives logits and the policy says
which rows leave. A layer below which every row has left is not run.
"""

from __future__ import annotations

from typing import Any

import torch

from .cache import StaircaseCache
from .confidence import Ask
from .staircase import Block


@torch.no_grad()
def decode_step(
    model: Any,
    cache: StaircaseCache,
    decoder_input_ids: torch.Tensor,
    encoder_hidden: torch.Tensor,
    encoder_mask: torch.Tensor | None = None,
    decoder_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits `[rows, 1, vocab]` of the token after `decoder_input_ids` `[rows, q]`, each row's from the exit it left by.

    Args:
        model: a model from `get_deed_model`.
        cache: its state; gains the new positions and one entry of depths.
        encoder_hidden: `[rows, source, d]`.
        encoder_mask: `[rows, source]`, 1 keeps.
        decoder_mask: `[rows, length so far]`, 1 keeps; None keeps all.
    """
    family, stairs, policy = model.deed_family, cache.stairs, cache.policy
    exit_of = {depth: i for i, depth in enumerate(model.deed_config.exit_layers)}
    stairs.extend(family.embed(model, decoder_input_ids, stairs.length))
    if not cache.encoder_seen:
        cache.encoder_seen = True
        if encoder_mask is not None and not bool(encoder_mask.all()):
            cache.encoder_mask = mask_for(model, encoder_mask[:, None, None, :], encoder_hidden.dtype)
    vocab = family.vocab_size(model)
    allowed = cache.allowed(vocab, encoder_hidden.device)

    live = cache.live_rows()
    rows = torch.tensor(live, device=encoder_hidden.device)
    depths = [0] * stairs.n_rows
    leavers: list[tuple[list[int], torch.Tensor]] = []
    earlier: list[torch.Tensor] = []  # argmax of the exits asked in this step, for measures that remember
    masks: dict[tuple[int, int], tuple[torch.Tensor | None, torch.Tensor | None]] = {}
    n_layers = stairs.n_layers

    for depth, layer in enumerate(family.layers(model), 1):
        if not live:
            break
        block = stairs.block(depth - 1, live)
        cache.enter(block, layer, family, encoder_hidden)
        key = (block.start, len(live))
        if key not in masks:
            masks[key] = _self_attention(model, family, cache, block, decoder_mask)
        self_mask, bias = masks[key]
        cross_mask = cache.encoder_mask
        if cross_mask is not None and block.index is not None:
            cross_mask = cross_mask.index_select(0, block.index)
        output = family.run(layer, block.hidden, self_mask, bias, encoder_hidden, cross_mask, cache)

        if depth in exit_of:
            hidden = output[:, -1]
            ask = Ask(
                depth=depth,
                exit_index=exit_of[depth],
                is_last=depth == n_layers,
                step=cache.step,
                rows=rows,
                hidden=hidden,
                previous=block.hidden[:, -1] if depth > 1 else None,
                head=lambda h=hidden, d=depth: _logits(model, d, h),  # type: ignore[misc]
                allowed=None if allowed is None else allowed[live],
                earlier=earlier,
            )
            leave = [True] * len(live) if ask.is_last else policy.leaves(ask).tolist()
            if any(leave):
                going = [r for r, gone in zip(live, leave, strict=True) if gone]
                leavers.append((going, _leaving_logits(model, ask, leave)))
                for r in going:
                    depths[r] = depth
            if ask.looked:
                cache.asked_rows += len(live)
            stairs.widen(block, output)
            if policy.remembers and not all(leave):
                token = ask.masked_logits.argmax(-1)
                stay = torch.tensor([not gone for gone in leave], device=token.device)
                earlier = [t[stay] for t in [*earlier, token]]
            if any(leave):
                live = [r for r, gone in zip(live, leave, strict=True) if not gone]
                rows = torch.tensor(live, device=encoder_hidden.device)
        else:
            stairs.widen(block, output)

    cache.block = None
    cache.record(depths)
    return _assemble(leavers, stairs.n_rows, vocab, encoder_hidden)[:, None]


def _logits(model: Any, depth: int, hidden: torch.Tensor) -> torch.Tensor:
    logits = model.exit_head(depth, hidden)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _leaving_logits(model: Any, ask: Ask, leave: list[bool]) -> torch.Tensor:
    if all(leave):
        return ask.logits
    picked = torch.tensor([i for i, gone in enumerate(leave) if gone], device=ask.hidden.device)
    if ask.looked:
        return ask.logits.index_select(0, picked)
    return _logits(model, ask.depth, ask.hidden.index_select(0, picked))


def _assemble(
    leavers: list[tuple[list[int], torch.Tensor]], n_rows: int, vocab: int, like: torch.Tensor
) -> torch.Tensor:
    if len(leavers) == 1 and len(leavers[0][0]) == n_rows:
        return leavers[0][1]
    dtype = leavers[0][1].dtype if leavers else torch.float32
    logits = torch.zeros(n_rows, vocab, dtype=dtype, device=like.device)  # finished rows: any finite value
    for rows, values in leavers:
        logits[rows] = values
    return logits


def _self_attention(
    model: Any, family: Any, cache: StaircaseCache, block: Block, decoder_mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Causal mask `[rows or 1, 1, width, stop]` (None where every key is visible) and position bias of a block.

    A block wider than one position needs its mask spelled out: given None, sdpa would align its own causal mask to the
    top left and silently read the wrong keys.
    """
    device, dtype = block.hidden.device, block.hidden.dtype
    visible = None
    if block.stop - block.start > 1:
        keys = torch.arange(block.stop, device=device)
        visible = (keys[None, :] <= keys[block.start :, None])[None, None]
    if decoder_mask is not None and not bool(decoder_mask.all()):
        rows = decoder_mask if block.index is None else decoder_mask.index_select(0, block.index)
        padding = rows[:, None, None, : block.stop].to(torch.bool)
        visible = padding if visible is None else visible & padding
    bias = None
    if cache.bias is None or cache.bias.shape[-1] < block.stop:
        cache.bias = family.position_bias(model, max(2 * block.stop, 32))
    if cache.bias is not None:
        bias = cache.bias[:, :, block.start : block.stop, : block.stop]
    return (None if visible is None else mask_for(model, visible, dtype)), bias


def mask_for(model: Any, keep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`keep` in the form that the model's attention gets from Transformers: bool for sdpa; for eager 0 where kept and the
    dtype's lowest value elsewhere. They differ only for a row that keeps nothing."""
    keep = keep.to(torch.bool)
    if model.config._attn_implementation == "sdpa":
        return keep
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)
