"""What the layers of a block attend to: keys and values of the cache, for whole batches, runs of rows, or spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from deed.kernels.native import attention as native

from .block import Block
from .masks import Mask

if TYPE_CHECKING:
    from .cache import StaircaseCache


class BlockAttention:
    """`families.parts.Attends` for one block.

    Args:
        cache: its keys and values; takes in the block's new ones.
        block: the block in work.
        self_mask: what is added to self-attention's scores, see `masks.folded`.
        cross_mask: the same towards the source, see `masks.cross`.
    """

    def __init__(self, cache: StaircaseCache, block: Block, self_mask: Mask, cross_mask: Mask) -> None:
        self.cache, self.block = cache, block
        self.self_mask, self.cross_mask = self_mask, cross_mask

    def attend_self(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """Take in the block's keys and values, and attend to all its rows have.

        Args:
            q: `[r, heads, width, head_dim]`, packed `[1, heads, cells, head_dim]`.
            k: new keys, like `q`.
            v: new values, like `q`.
            scale: factor on the scores.

        Returns:
            Like `q`.
        """
        block = self.block
        keys, values = self.cache.stairs.put(block, k, v)
        if block.stops is None or block.grid is not None:
            keys, values = keys.narrow(2, 0, block.stop), values.narrow(2, 0, block.stop)
        if block.packed:
            return _by_spans(q, keys, values, block, self.self_mask, scale, cut=block.stops is not None)  # type: ignore[arg-type]
        mask = self.self_mask
        assert not isinstance(mask, list)
        if len(block.rows) == block.n_rows:
            return _attend(q, keys, values, mask, scale)
        if block.grid is not None and len(block.runs) > 2:
            keys, values = keys.index_select(0, block.index), values.index_select(0, block.index)  # type: ignore[arg-type]
            return _attend(q, keys, values, mask, scale)
        found = []
        for i, j, row in block.runs:  # slices of keys and values, which are large: nothing is gathered
            part = mask if mask is None or mask.shape[0] == 1 else mask[i:j]
            found.append(_attend(q[i:j], keys[row : row + j - i], values[row : row + j - i], part, scale))
        return found[0] if len(found) == 1 else torch.cat(found)

    def attend_cross(self, q: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend to the source; `q` and what is returned as in `attend_self`."""
        block = self.block
        keys, values = self.cache.cross_keys[block.layer], self.cache.cross_values[block.layer]
        assert keys is not None and values is not None
        mask = self.cross_mask
        if block.packed:
            return _by_spans(q, keys, values, block, mask, scale)  # type: ignore[arg-type]
        assert not isinstance(mask, list)
        if len(block.rows) == block.n_rows:
            return _attend(q, keys, values, mask, scale)
        found = []
        for i, j, row in block.runs:
            at = row if block.grid is None else i
            part = mask if mask is None or mask.shape[0] == 1 else mask[at : at + j - i]
            found.append(_attend(q[i:j], keys[row : row + j - i], values[row : row + j - i], part, scale))
        return found[0] if len(found) == 1 else torch.cat(found)


# Where two matrix products take less time than sdpa on a CPU (heads of 64, two Zen 5 cores, microseconds): one query only
# for several rows (12 heads: 12 against 9 for 1 row and 64 keys, 38 against 44 for 8 rows) or a source as long as Whisper's
# (8 heads, 1,500 keys: 200 against 229), several queries for all but a few heads (4 queries, 16 keys: 12 heads 11 against 21,
# 8 rows of them 33 against 138; 2 heads 13 against 10).
ONE_QUERY = (48, 32)  # heads of all rows, keys
LONG_SOURCE = 1024  # keys
QUERIES, LONG, SCORES = 8, 32, 2**18  # heads of all rows; at most so many queries and scores


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    if native.attends(q, keys, values, mask):
        return native.attend(q, keys, values, mask, scale)
    if keys.size(1) != q.size(1):  # heads share keys and values
        return nn.functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, scale=scale, enable_gqa=True
        )
    if not _by_products(q, keys.size(2)) or (mask is not None and mask.dtype == torch.bool):
        # Also where a row keeps nothing, which only a mask of bools can say: that is sdpa's to answer.
        return nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)
    scores = torch.matmul(q if scale == 1.0 else q * scale, keys.transpose(2, 3))
    if mask is not None:
        scores.add_(mask)
    return torch.matmul(scores.softmax(-1), values)


def _by_products(q: torch.Tensor, keys: int) -> bool:
    rows, heads, queries, _ = q.shape
    if q.device.type != "cpu" or q.dtype.itemsize < 4:
        return False
    if queries == 1:
        return keys >= LONG_SOURCE or (rows * heads >= ONE_QUERY[0] and keys >= ONE_QUERY[1])
    return rows * heads >= QUERIES and queries <= LONG and rows * heads * queries * keys <= SCORES


def _by_spans(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block: Block,
    masks: list[torch.Tensor | None] | None,
    scale: float,
    cut: bool = False,
) -> torch.Tensor:
    """A packed block: one call per span, `[1, heads, cells, head_dim]` in and out.

    Args:
        keys, values: `[rows, heads, length, head_dim]` of the whole batch.
        masks: one for each span, or None where there is nothing to add.
        cut: attend to the first `stop` positions of each span alone: rows differ in length.
    """
    found = []
    for at, ((i, j, row, _, stop), (a, b)) in enumerate(zip(block.spans, block.ranges, strict=True)):
        rows = q[0, :, a:b].unflatten(1, (j - i, -1)).transpose(0, 1)
        k, v = keys[row : row + j - i], values[row : row + j - i]
        if cut:
            k, v = k.narrow(2, 0, stop), v.narrow(2, 0, stop)
        attended = _attend(rows, k, v, None if masks is None else masks[at], scale)
        found.append(attended.transpose(0, 1).flatten(1, 2))
    return torch.cat(found, 1)[None]
