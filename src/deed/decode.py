"""One decoding step: walk down the layers, ask the exits, let rows leave.

This is the only module that knows of rows and layers at once. For each layer the staircase hands out the pending block,
the family runs its layer on it, the staircase takes the result; at an exit, the head gives logits and the policy says
which rows leave. A layer below which every row has left is not run.
"""

from __future__ import annotations

from typing import Any

import torch

from . import masks
from .cache import StaircaseCache
from .confidence import Ask
from .families.parts import run_parts
from .staircase import Block


@torch.inference_mode()  # a sixth faster than no_grad at small widths
def decode_step(
    model: Any,
    cache: StaircaseCache,
    decoder_input_ids: torch.Tensor,
    encoder_hidden: torch.Tensor,
    encoder_mask: torch.Tensor | None = None,
    decoder_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits `[rows, 1, vocab]` of the token after `decoder_input_ids` `[rows, q]`, each row's from the exit it left by.

    They are inference tensors: whoever writes into them copies them first.

    Args:
        model: a model from `get_deed_model`.
        cache: its state; gains the new positions and one entry of depths.
        encoder_hidden: `[rows, source, d]`.
        encoder_mask: `[rows, source]`, 1 keeps.
        decoder_mask: `[rows, length so far]`, 1 keeps; None keeps all.
    """
    stairs, policy = cache.stairs, cache.policy
    plan = cache.plan = cache.plan or Plan(model)
    family = plan.family
    stairs.extend(family.embed(model, decoder_input_ids, stairs.length))
    if not cache.encoder_seen:
        cache.encoder_seen = True
        if encoder_mask is not None and not bool(encoder_mask.all()):
            cache.encoder_mask = masks.mask_for(model, encoder_mask[:, None, None, :], encoder_hidden.dtype)
    if decoder_mask is not None and bool(decoder_mask.all()):
        decoder_mask = None
    allowed = cache.allowed(plan.vocab, encoder_hidden.device)

    live = cache.live_rows()
    rows = torch.tensor(live, device=encoder_hidden.device)
    depths = [0] * stairs.n_rows
    leavers: list[tuple[list[int], torch.Tensor]] = []
    earlier: list[torch.Tensor] = []  # argmax of the exits asked in this step, for measures that remember

    for depth, layer in enumerate(plan.layers, 1):
        if not live:
            break
        block = stairs.block(depth - 1, live)
        cache.enter(block, layer, family, encoder_hidden)
        if plan.parts is None:
            output = _run_layer(model, plan, cache, layer, block, encoder_hidden, decoder_mask)
        else:
            cache.own_mask = masks.folded(model, family, cache, block, decoder_mask)
            output = run_parts(plan.parts[depth - 1], block.hidden, cache)
        exit_index = plan.exit_of.get(depth)
        if exit_index is None:
            stairs.widen(block, output)
            continue
        hidden = output[:, -1]
        ask = Ask(
            depth=depth,
            exit_index=exit_index,
            is_last=depth == stairs.n_layers,
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
            leavers.append((going, ask.leaving(leave)))
            for r in going:
                depths[r] = depth
        if ask.looked:
            cache.asked_rows += len(live)
        elif ask.narrowed is not None:
            cache.asked_rows += len(ask.narrowed[0])
        stairs.widen(block, output)
        if policy.remembers and not all(leave):
            token = ask.masked_logits.argmax(-1)
            stay = torch.tensor([not gone for gone in leave], device=token.device)
            earlier = [t[stay] for t in [*earlier, token]]
        if any(leave):
            live = [r for r, gone in zip(live, leave, strict=True) if not gone]
            rows = torch.tensor(live, device=encoder_hidden.device)

    cache.block = None
    cache.record(depths)
    return _assemble(leavers, stairs.n_rows, plan.vocab, encoder_hidden)[:, None]


class Plan:
    """What a generation looks up once: layers, their parts where the family knows them, and which depths are exits."""

    def __init__(self, model: Any) -> None:
        self.family = model.deed_family
        self.layers = list(self.family.layers(model))
        self.parts = self.family.parts(model)
        self.exit_of = {depth: i for i, depth in enumerate(model.deed_config.exit_layers)}
        self.vocab = self.family.vocab_size(model)


def _logits(model: Any, depth: int, hidden: torch.Tensor) -> torch.Tensor:
    logits = model.exit_head(depth, hidden)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


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


def _run_layer(
    model: Any,
    plan: Plan,
    cache: StaircaseCache,
    layer: Any,
    block: Block,
    encoder_hidden: torch.Tensor,
    decoder_mask: torch.Tensor | None,
) -> torch.Tensor:
    """A layer by its own `forward`, through Transformers' cache interface."""
    self_mask, bias = masks.separate(model, plan.family, cache, block, decoder_mask)
    cross_mask = cache.encoder_mask
    if cross_mask is not None and block.index is not None:
        cross_mask = cross_mask.index_select(0, block.index)
    return plan.family.run(layer, block.hidden, self_mask, bias, encoder_hidden, cross_mask, cache)
