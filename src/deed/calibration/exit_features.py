"""What exits see on real examples, for what cheap asking learns: their layers' outputs and whether their answers agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from .answering import collate
from .teacher_forcing import evaluating, from_answers, from_labels


@dataclass
class Found:
    """Teacher-forced positions, n in all.

    Attributes:
        hidden: by depth of the exits but the last, `[n, d_model]` float32, the layer's output.
        agrees: by depth, `[n]` bool, whether the exit's best token is the last exit's.
        example: `[n]` long, which example each position is from.
    """

    hidden: dict[int, torch.Tensor]
    agrees: dict[int, torch.Tensor]
    example: torch.Tensor


@torch.no_grad()
def collect(model: Any, dataset: Iterable[dict[str, Any]], positions: int, batch_size: int) -> Found:
    """About `positions` positions of `dataset` (batches are finished), each read after the labels before it; where an
    example of a batch has none, after the model's own full-depth answers.

    Raises:
        ValueError: the data set is empty.
    """
    depths = model.deed_config.exit_layers[:-1]
    hidden: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
    agrees: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
    numbers: list[torch.Tensor] = []
    with evaluating(model):
        examples, seen, count = iter(dataset), 0, 0
        while count < positions and (part := list(islice(examples, batch_size))):
            inputs = collate(model, part)
            ids, keep = _prefixes(model, part, inputs)
            out = model(**inputs, decoder_input_ids=ids, output_hidden_states=True, use_cache=False)
            last = out.logits[keep].argmax(-1)
            for depth in depths:
                at = out.decoder_hidden_states[depth][keep]
                agrees[depth].append((model.exit_head(depth, at).argmax(-1) == last).cpu())
                hidden[depth].append(at.float().cpu())
            row = torch.arange(seen, seen + len(part))[:, None].expand(keep.shape)
            numbers.append(row[keep.cpu()])
            seen, count = seen + len(part), count + len(last)
    if count == 0:
        raise ValueError("the data set has no tokens to learn from")
    return Found(
        {d: torch.cat(x) for d, x in hidden.items()}, {d: torch.cat(x) for d, x in agrees.items()}, torch.cat(numbers)
    )


def _prefixes(
    model: Any, part: list[dict[str, Any]], inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder inputs `[rows, length]` and which of their positions count."""
    if all(example.get("labels") is not None for example in part):
        return from_labels(model, part)
    return from_answers(model, inputs, {"num_beams": 1, "do_sample": False})
