"""What exits see on real examples, for exit checks that are learned: their layers' outputs and whether their answers agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from deed.constants import GREEDY
from deed.exits.heads import exit_logits_of
from deed.modeling.answering import batches, check_batch_size
from deed.modeling.forward import exit_states

from .answering import collate
from .teacher_forcing import Forced, evaluating, from_answers, from_labels


@dataclass
class Found:
    """Teacher-forced positions, n in all.

    Attributes:
        hidden: by depth of the exits but the last, `[n, d_model]` float32, the layer's output.
        states: the same of what the exit's norm gets, which differs where exits have layers of their own.
        agrees: by depth, `[n]` bool, whether the exit's best token is the last exit's.
        example: `[n]` long, which example each position is from.
        usage: `[vocab]`, the sum over positions of the last exit's probabilities.
    """

    hidden: dict[int, torch.Tensor]
    states: dict[int, torch.Tensor]
    agrees: dict[int, torch.Tensor]
    example: torch.Tensor
    usage: torch.Tensor


@torch.no_grad()
def collect(model: Any, dataset: Iterable[dict[str, Any]], positions: int, batch_size: int, ask: bool = True) -> Found:
    """About `positions` positions of `dataset`, each read after the labels before it; where an example of a batch has none
    (or has a decoder prompt), after the model's own full-depth answers.

    Args:
        model: a deed model.
        dataset: examples as for `deed.calibrate`.
        positions: where to stop; batches are finished.
        batch_size: rows at once.
        ask: whether exits are asked for their answers; else `agrees` is empty.

    Raises:
        ValueError: the data set is empty, or the batch size below 1.
    """
    depths = model.deed_config.exit_layers[:-1]
    hidden: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
    states: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
    agrees: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
    numbers: list[torch.Tensor] = []
    usage = torch.zeros(model.deed_family.vocab_size(model))
    with evaluating(model):
        examples, seen, count = iter(dataset), 0, 0
        while count < positions and (drawn := list(islice(examples, check_batch_size(batch_size)))):
            for part in batches(drawn, batch_size):
                inputs, keep = _forced(model, [drawn[i] for i in part])
                given = {**inputs, "output_hidden_states": True, "use_cache": False}
                out, made = exit_states(model, type(model).deed_base.forward, given)
                last = out.logits[keep]
                usage += last.float().softmax(-1).sum(0).cpu()
                last = last.argmax(-1)
                for depth in depths:
                    at = out.decoder_hidden_states[depth][keep]
                    state = made[depth][keep]
                    if ask:
                        agrees[depth].append((exit_logits_of(model, depth, state).argmax(-1) == last).cpu())
                    hidden[depth].append(at.float().cpu())
                    same = model.deed_config.adapter != "layer"
                    states[depth].append(hidden[depth][-1] if same else state.float().cpu())
                row = seen + torch.tensor(part)[:, None].expand(keep.shape)
                numbers.append(row[keep.cpu()])
                count += len(last)
            seen += len(drawn)
    if count == 0:
        raise ValueError("the data set has no tokens to learn from")
    layers, agreed = ({d: torch.cat(x) for d, x in found.items() if x} for found in (hidden, agrees))
    norms_get = layers if model.deed_config.adapter != "layer" else {d: torch.cat(x) for d, x in states.items()}
    return Found(layers, norms_get, agreed, torch.cat(numbers), usage)


def _forced(model: Any, part: list[dict[str, Any]]) -> Forced:
    inputs = collate(model, part)
    if all(example.get("labels") is not None and "decoder_input_ids" not in example for example in part):
        return from_labels(model, part, inputs)
    return from_answers(model, inputs, GREEDY)
