"""One decoding step: walk down the layers, ask the exits, let rows leave.

This is the only module that knows of rows and layers at once. For each layer the staircase hands out the pending block,
the family runs its layer on it, the staircase takes the result; at an exit, the head gives logits and the policy says
which rows leave. A layer below which every row has left is not run.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from deed.exits.heads import DirectExits
from deed.families.parts import run_parts
from deed.policies.query import Ask

from . import masks
from .cache import StaircaseCache
from .cuda_graphs import recorded
from .staircase import Block

# Where padding costs more than attending to rows one by one it is packed away. Seconds, on two Zen 4 cores: a span by
# itself; and, times d_model squared, a cell beyond the few that come free with reading a layer's weights (24 d^2 operations
# at 190 GFLOP/s).
SPAN, CELL = 50e-6, 1.3e-10


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
            # Layers with a bias add their masks to it, as numbers; that shows in rows which have nothing to read.
            bools = plan.parts is None or not family.has_bias
            cache.encoder_mask = masks.mask_for(model, encoder_mask[:, None, None, :], encoder_hidden.dtype, bools)
    if decoder_mask is not None and bool(decoder_mask.all()):
        decoder_mask = None
    allowed = cache.allowed(plan.vocab, encoder_hidden.device)

    live = cache.live_rows()
    rows = plan.numbers(live, stairs.n_rows, encoder_hidden.device)
    depths = [0] * stairs.n_rows
    leavers: list[tuple[list[int], torch.Tensor]] = []  # rows and their logits
    unseen: list[tuple[list[int], torch.Tensor]] = []  # rows that left without a look, and what their heads get
    earlier: list[torch.Tensor] = []  # argmax of the exits asked in this step, for measures that remember

    for depth, layer in enumerate(plan.layers, 1):
        if not live:
            break
        block = stairs.block(depth - 1, live, plan.span_worth)
        cache.enter(block, layer, family, encoder_hidden)
        if plan.parts is None:
            output = _run_layer(model, plan, cache, layer, block, encoder_hidden, decoder_mask)
        else:
            cache.own_mask = masks.folded(model, family, cache, block, decoder_mask)
            cache.cross_mask = masks.cross(model, family, cache, block)
            output = plan.run(depth, block.hidden, cache)
        exit_index = plan.exit_of.get(depth)
        if exit_index is None:
            stairs.widen(block, output)
            continue
        hidden = block.newest(output)
        ask = Ask(
            depth=depth,
            exit_index=exit_index,
            is_last=depth == stairs.n_layers,
            step=cache.step,
            rows=rows,
            hidden=hidden,
            previous=block.newest(block.hidden) if depth > 1 else None,
            head=lambda h=hidden, d=depth: plan.exits.logits(d, h),  # type: ignore[misc]
            allowed=None if allowed is None else allowed[live],
            earlier=earlier,
        )
        leave = [True] * len(live) if ask.is_last else policy.leaves(ask).tolist()
        if any(leave):
            going = [r for r, gone in zip(live, leave, strict=True) if gone]
            if ask.looked or ask.narrowed is not None:
                leavers.append((going, ask.leaving(leave)))
            else:
                unseen.append((going, plan.exits.features(depth, _picked(hidden, leave))))
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

    if unseen:  # one product for all of them: a head takes as long to read as some layers
        at = [r for going, _ in unseen for r in going]
        features = [f for _, f in unseen]
        cache.asked_rows += len(at)
        leavers.append((at, plan.exits.logits_of(features[0] if len(features) == 1 else torch.cat(features))))
    cache.block = None
    cache.record(depths)
    return _assemble(leavers, stairs.n_rows, plan.vocab, encoder_hidden)[:, None]


class Plan:
    """What a generation looks up once: layers, their parts where the family knows them, and which depths are exits."""

    def __init__(self, model: Any, encoder_outputs: Any = None) -> None:
        family = model.deed_family
        self.family = family if encoder_outputs is None else family.for_source(model, encoder_outputs)
        self.layers = list(self.family.layers(model))
        self.parts = self.family.parts(model)
        self.exit_of = {depth: i for i, depth in enumerate(model.deed_config.exit_layers)}
        self.vocab = self.family.vocab_size(model)
        self.exits: Any = DirectExits(model)
        self.everyone: torch.Tensor | None = None
        self.recorded_layers = None
        recordings = recorded(model, self.parts, self.exits)
        if recordings is not None:
            self.recorded_layers, self.exits = recordings
        self.span_worth = math.inf
        if self.parts is not None and model.device.type == "cpu":
            self.span_worth = SPAN / (CELL * self.family.d_model(model) ** 2)

    def numbers(self, rows: list[int], n_rows: int, device: torch.device) -> torch.Tensor:
        """Row numbers as a tensor; that of all `n_rows` is kept, since sending it takes a GPU as long as a layer."""
        if len(rows) < n_rows:
            return torch.tensor(rows, device=device)
        if self.everyone is None or len(self.everyone) != n_rows:
            self.everyone = torch.arange(n_rows, device=device)
        return self.everyone

    def run(self, depth: int, hidden: torch.Tensor, cache: StaircaseCache) -> torch.Tensor:
        """A layer by its parts."""
        if self.recorded_layers is not None:
            return self.recorded_layers[depth - 1](hidden, cache)
        assert self.parts is not None
        return run_parts(self.parts[depth - 1], hidden, cache)


def _picked(hidden: torch.Tensor, leave: list[bool]) -> torch.Tensor:
    return hidden if all(leave) else hidden[[i for i, gone in enumerate(leave) if gone]]


def _assemble(
    leavers: list[tuple[list[int], torch.Tensor]], n_rows: int, vocab: int, like: torch.Tensor
) -> torch.Tensor:
    if len(leavers) == 1 and leavers[0][0] == list(range(n_rows)):
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
    cross_mask = masks.cross(model, plan.family, cache, block)
    if cross_mask is not None and cross_mask.shape[0] > 1 and block.index is not None:
        cross_mask = cross_mask.index_select(0, block.index)
    return plan.family.run(layer, block.hidden, self_mask, bias, encoder_hidden, cross_mask, cache)
