"""Held-out examples answered freely in `deed tune --recipe`: at thresholds against the untouched model's answers.

Teacher-forced, a changed token costs one token; here it also changes what follows. Tokens are compared by alignment: changed
are those that an edit would have to insert, delete or replace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deed.modeling.answering import exit_depths
from deed.utils.progress import SILENT_BAR, Bar

from .tune_batch import encoded
from .tune_pool import Item, Pool


@torch.no_grad()
def free_running(
    model: Any,
    pool: Pool,
    which: Sequence[int],
    thresholds: Sequence[Sequence[float]],
    options: Mapping[str, Any],
    batch_size: int = 8,
    bar: Bar = SILENT_BAR,
) -> list[dict[str, Any]]:
    """What generating at each thresholds gives, from the encoder outputs of a pool.

    Args:
        model: a deed model, in evaluation mode.
        pool: held out, with the untouched model's answers.
        which: its examples.
        thresholds: one per exit before the last, for each way.
        options: of `generate()`, as the answers were made with.
        batch_size: examples at once.
        bar: advanced by examples.

    Returns:
        Per way `{"thresholds", "tokens", "changed", "same", "depth", "exit_depth"}`: how many tokens the untouched model says,
        shares of them, the share of answers that are alike, and mean depths in shares of the layers, with exits' own layers
        counted and without.
    """
    items = [pool.item(i, ("answer",)) for i in which]
    order = sorted(range(len(items)), key=lambda i: (items[i].sequences[0].given, items[i].sequences[0].inputs))
    found = []
    for way in thresholds:
        told = _Told(model, way)
        at = 0
        while at < len(order):
            given = items[order[at]].sequences[0].given
            part = [items[i] for i in order[at : at + batch_size] if items[i].sequences[0].given == given]
            told.add(part, *generated(model, pool.kind, part, {**options, "exit_threshold": list(way)}))
            at += len(part)
            bar.advance(len(part))
        found.append({"thresholds": list(way), **told.result()})
    return found


def generated(
    model: Any, kind: Any, items: list[Item], options: Mapping[str, Any]
) -> tuple[list[list[int]], list[list[int]]]:
    """New tokens of each item, and their depths; items are put in the order of the batch.

    Args:
        model: a deed model.
        kind: class of the encoder's output.
        items: with prompts of one length; sorted in place.
        options: of `generate()`.
    """
    outputs, mask, items[:] = encoded(items, kind, next(model.parameters()).dtype)
    prompts = torch.tensor([one.sequences[0].tokens[: one.sequences[0].given] for one in items])
    inputs: dict[str, Any] = {"encoder_outputs": outputs, "decoder_input_ids": prompts}
    if mask is not None:
        inputs["attention_mask"] = mask.long()
    out = model.generate(**inputs, **{**options, "return_dict_in_generate": True})
    depths = exit_depths(out)
    assert depths is not None
    start = out.sequences.shape[1] - depths.shape[1]
    tokens, left = [], []
    for row, deep in zip(out.sequences[:, start:].tolist(), depths.tolist(), strict=True):
        count = sum(d > 0 for d in deep)
        tokens.append(row[:count])
        left.append(deep[:count])
    return tokens, left


class _Told:
    """Sums over answers."""

    def __init__(self, model: Any, thresholds: Sequence[float]) -> None:
        layers = model.deed_config.exit_layers
        own = model.deed_config.adapter == "layer"
        asked = [d for d, t in zip(layers, thresholds, strict=False) if t <= 1] if own else []
        self.layers = layers[-1]
        self.own = {d: sum(a <= d for a in asked) for d in layers}  # own layers of a token that leaves there
        self.tokens = self.edits = self.same = self.answers = self.made = self.depth = self.branches = 0

    def add(self, items: list[Item], tokens: list[list[int]], depths: list[list[int]]) -> None:
        for item, new, deep in zip(items, tokens, depths, strict=True):
            one = item.sequences[0]
            before = one.tokens[one.given :]
            edits = edit_distance(before, new)
            self.tokens, self.edits = self.tokens + len(before), self.edits + edits
            self.same, self.answers = self.same + (edits == 0), self.answers + 1
            self.made, self.depth = self.made + len(new), self.depth + sum(deep)
            self.branches += sum(self.own[d] for d in deep)

    def result(self) -> dict[str, Any]:
        full = max(1, self.made) * self.layers
        return {
            "tokens": self.tokens,
            "changed": self.edits / max(1, self.tokens),
            "same": self.same / max(1, self.answers),
            "depth": (self.depth + self.branches) / full,
            "exit_depth": self.depth / full,
        }


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Least number of insertions, deletions and replacements (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
