"""Examples of a pool as one batch: sources padded, the sequences of an example side by side in its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deed.training.distill import Teacher
from deed.training.forced import Packed, Source, source_of

from .tune_pool import Item
from .tune_teacher import INPUT_MASK


@dataclass
class Batch:
    """Examples to train on.

    Attributes:
        encoder_outputs: of all rows.
        mask: `[rows, source]`, the encoder's input's, or None.
        ids: `[rows, length]`, what the decoder reads.
        packed: where tokens are.
        states: by depth `[rows, length, d_model]`.
        chosen: `[rows, length]` bool, where a token follows that is to be predicted.
        teacher: of the chosen positions, in their order.
        labels: `[chosen]` long, the tokens that follow.
        rows: of the chosen positions, which sequence of the batch they are of, in order.
    """

    encoder_outputs: Any
    mask: torch.Tensor | None
    ids: torch.Tensor
    packed: Packed
    states: dict[int, torch.Tensor]
    chosen: torch.Tensor
    teacher: Teacher
    labels: torch.Tensor
    sequence: torch.Tensor

    def source(self, model: Any) -> Source:
        """What the decoder attends to."""
        return source_of(model, self.encoder_outputs, self.mask)


def join(items: Sequence[Item], kind: Any, pad: int, dtype: torch.dtype, packs: bool) -> Batch:
    """A batch of examples; the longest source comes first, as families that share its positions need it.

    Args:
        items: of a pool.
        kind: class of the encoder's output.
        pad: id of the padding token.
        dtype: of states.
        packs: several sequences may share a row (`can_pack`); else each has its own.
    """
    items = sorted(items, key=lambda item: -max(len(value) for value in item.source.values()))
    if not packs:
        items = [part for item in items for part in _apart(item)]
    source = {name: _stack([item.source[name] for item in items], dtype) for name in items[0].source}
    mask = source.pop(INPUT_MASK, None)
    length = max(sum(one.inputs for one in item.sequences) for item in items)
    shape = (len(items), length)
    ids = torch.full(shape, pad)
    positions, which = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    chosen, numbers, labels = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long), ids.clone()
    number = 0
    for row, item in enumerate(items):
        at = 0
        for i, one in enumerate(item.sequences):
            here = slice(at, at + one.inputs)
            tokens = torch.tensor(one.tokens)
            ids[row, here], labels[row, here] = tokens[:-1], tokens[1:]
            positions[row, here], which[row, here] = torch.arange(one.inputs), i
            chosen[row, at + one.given - 1 : here.stop] = True
            numbers[row, here] = number
            at, number = here.stop, number + 1
    states = {}
    for depth, first in items[0].states.items():
        states[depth] = torch.zeros(*shape, first.shape[-1], dtype=dtype)
        for row, item in enumerate(items):
            states[depth][row, : len(item.states[depth])] = item.states[depth]
    tops = []
    for row, item in enumerate(items):
        tops.append(item.teacher.at(chosen[row, : len(item.teacher.ids)]))
    teacher = Teacher(*(torch.cat(parts) for parts in zip(*tops, strict=True)))
    encoded, packed = kind(**source), Packed(positions, which)
    return Batch(encoded, mask, ids, packed, states, chosen, teacher, labels[chosen], numbers[chosen])


def _apart(item: Item) -> list[Item]:
    """Its sequences as examples of their own."""
    parts, at = [], 0
    for one in item.sequences:
        here = slice(at, at + one.inputs)
        states = {depth: values[here] for depth, values in item.states.items()}
        parts.append(Item(item.source, [one], states, item.teacher.at(here)))
        at = here.stop
    return parts


def _stack(values: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    values = [value.to(dtype) if value.is_floating_point() else value for value in values]
    return (
        values[0][None]
        if len(values) == 1
        else (
            torch.stack(values)
            if len({value.shape for value in values}) == 1
            else torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        )
    )
