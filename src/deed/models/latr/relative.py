"""Relative attention bias of LaTr++'s encoder with a late question: reading order, and where boxes lie to each other.

Reading order counts within the page's words and within a question, as T5 does and through T5's own table; every other pair
of tokens (a word and a patch, a question and a word …) has a bucket of its own. So a question's bias does not depend on where
it stands in a pack, nor a word's on the padding around it.

Boxes add three more tables, for pairs of words: how far apart their middles are in height, and their left and their right
edges in width. Offsets fall into buckets as T5's distances do: small ones exact (in steps of `STEP` thousandths of the page),
large ones by logarithm. LayoutLMv2 (Xu et al., 2021, section 2.3) biases by lower left corners; left and right edges tell
columns that are aligned either way. Two more tell of each word which ones head its row and its column, and of each question
for which cell it asks (`cells.py`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.models.t5.modeling_t5 import T5Attention

from .cells import ASKED, BOTH, RELATIONS, Cells

PATCH, WORD, QUESTION = 0, 1, 2
# (query, key) of the pairs that have no distance.
PAIRS = ((PATCH, PATCH), (PATCH, WORD), (WORD, PATCH), (QUESTION, PATCH), (QUESTION, WORD))
OFFSET_BUCKETS = 32
OFFSETS = 1000  # thousandths of the page
STEP = 4  # of them that count as one
LEAN = 3.0
POINTING = 24.0  # at a start, of the head that looks up, at the cell that is asked for


class LatrRelativeBias(nn.Module):
    """What is added to attention scores beside T5's table of distances.

    Args:
        heads: of the encoder.
        boxes: with the three tables of box offsets.
        cells: with the tables of rows and columns.
    """

    def __init__(self, heads: int, boxes: bool, cells: bool = False) -> None:
        super().__init__()
        self.pairs = nn.Embedding(len(PAIRS), heads)
        self.boxes = boxes
        if boxes:
            # The last row is that of pairs without an offset; it stays zero.
            for name in ("rows", "lefts", "rights"):
                setattr(self, name, nn.Embedding(OFFSET_BUCKETS + 1, heads))
        self.cells = cells
        if cells:
            self.relations, self.asked = nn.Embedding(RELATIONS, heads), nn.Embedding(ASKED, heads)

    def add_cells(self) -> None:
        """Give a trained model the tables of rows and columns, as a fresh one has them."""
        like = self.pairs.weight
        fresh = LatrRelativeBias(like.shape[1], boxes=False, cells=True).to(like)
        fresh.reset()
        self.cells, self.relations, self.asked = True, fresh.relations, fresh.asked

    @torch.no_grad()
    def reset(self) -> None:
        """Zeros, but one head looks along its line, one down its column by left edges and one by right ones: from zero such
        heads take thousands of steps to form. Questions look at the cells that they ask for."""
        init.zeros_(self.pairs.weight)
        if self.boxes:
            for head, name in enumerate(("rows", "lefts", "rights"), 2):
                table = getattr(self, name).weight
                start = torch.zeros_like(table)
                start[0, head : head + 1] = LEAN
                init.copy_(table, start)  # which leaves alone what a checkpoint has filled
        if self.cells:
            init.zeros_(self.relations.weight)
            start = torch.zeros_like(self.asked.weight)
            start[BOTH, -1] = POINTING
            init.copy_(self.asked.weight, start)

    def forward(
        self,
        order: torch.Tensor,
        sorts: torch.Tensor,
        bbox: torch.Tensor,
        cells: Cells | None = None,
        question_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            order: T5's table `[buckets, heads]`.
            sorts: `[batch, n]`, `PATCH`, `WORD` or `QUESTION`.
            bbox: `[batch, n, 4]`.
            cells: of the batch, for a bias that has their tables; None without.
            question_ids: `[batch, n]`, with `cells`.

        Returns:
            `[batch, heads, n, n]`.
        """
        n, device = sorts.shape[1], sorts.device
        at = torch.arange(n, dtype=torch.int32, device=device)
        # One row per signed distance, then one per pair of sorts: a pair of tokens is one look-up.
        pair = _pair_index(2 * n + 1).to(device)[sorts[:, :, None], sorts[:, None, :]]
        tables = [torch.cat([order[buckets(n, order.shape[0], 128).to(device)], self.pairs.weight.to(order.dtype)])]
        indices = [torch.where(pair < 0, at[None, :] - at[:, None] + n, pair)]
        if self.boxes:
            x0, y0, x1, y1 = bbox.int().unbind(-1)
            words = sorts == WORD
            both = words[:, :, None] & words[:, None, :]
            offsets = buckets(OFFSETS, OFFSET_BUCKETS, OFFSETS // STEP, STEP).to(device)
            for name, place in (("rows", (y0 + y1) // 2), ("lefts", x0), ("rights", x1)):
                weight = getattr(self, name).weight.to(order.dtype)
                tables.append(torch.cat([weight[offsets], weight[-1:]]))
                indices.append(torch.where(both, place[:, None, :] - place[:, :, None] + OFFSETS, 2 * OFFSETS + 1))
        if cells is not None:
            tables.append(self.relations.weight.to(order.dtype))
            indices.append(cells.relations)
            if cells.asked is not None and question_ids is not None:
                # Heads that look something up take what follows a word (`wiring.py`): they look before the cell.
                before = F.pad(cells.asked[:, :, 1:], (0, 1))
                tables.append(self.asked.weight.to(order.dtype))
                indices.append(before.gather(1, question_ids[:, :, None].expand(-1, -1, n)))
        return _SummedLookUp.apply(torch.stack(indices), *tables)


class _SummedLookUp(torch.autograd.Function):
    """The sum of each table's rows, `[batch, n, n, heads]` given as `[batch, heads, n, n]`.

    PyTorch's own backward of an embedding adds row by row, which takes a third of a training step; this counts by head.
    """

    @staticmethod
    def forward(ctx: Any, indices: torch.Tensor, *tables: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """
        Args:
            ctx: autograd's.
            indices: `[tables, batch, n, n]` int32.
            tables: `[rows, heads]` each.
        """
        ctx.save_for_backward(indices)
        ctx.rows = [len(table) for table in tables]
        total = tables[0].index_select(0, indices[0].reshape(-1))
        for table, index in zip(tables[1:], indices[1:], strict=True):
            total += table.index_select(0, index.reshape(-1))
        return total.view(*indices.shape[1:], -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """The sum of each row's gradients."""
        (indices,) = ctx.saved_tensors
        by_head = [part.reshape(-1).float() for part in grad.transpose(0, 1)]
        found = [
            torch.stack([torch.bincount(index.reshape(-1), part, rows) for part in by_head], 1).to(grad.dtype)
            for index, rows in zip(indices, ctx.rows, strict=True)
        ]
        return None, *found


@functools.lru_cache(maxsize=64)
def buckets(farthest: int, count: int, far: int, step: int = 1) -> torch.Tensor:
    """T5's bucket of every signed distance from -`farthest` to `farthest`: `[2 * farthest + 1]`.

    Args:
        farthest: largest distance.
        count: of buckets, half of them for each direction.
        far: steps from which on all are in the last bucket.
        step: distances that count as one, to the nearest.
    """
    distances = torch.round(torch.arange(-farthest, farthest + 1) / step).long()
    made: Any = T5Attention._relative_position_bucket(distances, True, count, far)
    return made


@functools.lru_cache(maxsize=8)
def _pair_index(first: int) -> torch.Tensor:
    """`[3, 3]`: row in the joint table for a pair of sorts, -1 for those that have a distance."""
    index = torch.full((3, 3), -1, dtype=torch.int32)
    for i, (query, key) in enumerate(PAIRS):
        index[query, key] = first + i
    # What a page's token may not see has some row; the mask hides it.
    index[PATCH, QUESTION] = index[WORD, QUESTION] = first
    return index


__all__ = ["PATCH", "QUESTION", "WORD", "LatrRelativeBias", "buckets"]
