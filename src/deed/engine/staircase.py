"""What has been computed, per row and layer, and nothing else: no model, no exits, no Transformers.

The picture: in one row, the number of leading positions whose layer-l keys and values exist only falls with l, so the
computed region is a staircase. `filled[l][r]` is that number. Everything under the stair is exact. The only other thing
to keep is the deepest hidden state of every position, in one buffer `[rows, length, d_model]`.

A step appends new positions (`extend`) and walks down the layers. At layer l it takes the pending block of positions
(`block`), runs it, hands in keys and values (`store`) and then the layer's output (`widen`), which widens that stair.

Rows have stairs of their own. A block is right-aligned: it spans positions start..length for all its rows, start being
the lowest stair among them, so that mask, bias and positions are shared. Where a row's stair is higher, its cells in
the block are *padding*: the layer computes them (from deeper states, so the values mean nothing), and both `put` and
`widen` drop them. Where that would be much waste, a block is *packed*: its rows' cells, without padding, one after the
other in a single row. Whatever works on positions one by one does not notice; attention goes by `spans`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

STEP = 8  # positions that buffers grow by at least


@dataclass
class Block:
    """The pending positions of some rows at one layer.

    Attributes:
        layer: 0-based layer.
        rows: row numbers, ascending.
        n_rows: rows of the whole batch.
        stairs: where each of the rows' stair stands.
        start, stop: the positions spanned.
        hidden: `[r, stop - start, d_model]`, the layer's input; packed: `[1, cells, d_model]`. May be a view of the
            buffer: read before `widen`.
        packed: see above.
    """

    layer: int
    rows: list[int]
    n_rows: int
    stairs: list[int]
    start: int
    stop: int
    hidden: torch.Tensor
    packed: bool = False

    @property
    def cells(self) -> int:
        """Positions to compute, padding apart."""
        return self.stop * len(self.rows) - sum(self.stairs)

    @cached_property
    def ranges(self) -> list[tuple[int, int]]:
        """Where the cells of each of `spans` lie in a packed block, row after row."""
        found, a = [], 0
        for i, j, _, stair in self.spans:
            found.append((a, a + (j - i) * (self.stop - stair)))
            a = found[-1][1]
        return found

    def newest(self, output: torch.Tensor) -> torch.Tensor:
        """`[r, d_model]`: of a layer's output, or of its input, each row's newest position."""
        if not self.packed:
            return output[:, -1]
        ends = list(accumulate(self.stop - stair for stair in self.stairs))
        return output[0].index_select(0, torch.tensor(ends, device=output.device) - 1)

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Rows that follow each other in the batch, as `(i, j, row)`: block rows i..j are the batch's row, row + 1 …
        What is sliced by runs is not copied."""
        count = len(self.rows)
        if self.rows[-1] - self.rows[0] + 1 == count:
            return [(0, count, self.rows[0])]
        return [(i, j, row) for i, j, row, _ in _runs(self.rows, [0] * count)]

    @cached_property
    def spans(self) -> list[tuple[int, int, int, int]]:
        """Runs of rows whose stairs stand equal, as `(i, j, row, stair)`: positions stair..stop of them are new."""
        if len(self.runs) == 1 and max(self.stairs) == self.start:
            return [(*self.runs[0], self.start)]
        return _runs(self.rows, self.stairs)

    @cached_property
    def index(self) -> torch.Tensor | None:
        """`rows` as a tensor, or None where it is every row in order."""
        return None if len(self.rows) == self.n_rows else torch.tensor(self.rows, device=self.hidden.device)


def _runs(rows: list[int], stairs: list[int]) -> list[tuple[int, int, int, int]]:
    found = []
    i = 0
    for j in range(1, len(rows) + 1):
        if j == len(rows) or rows[j] != rows[j - 1] + 1 or stairs[j] != stairs[i]:
            found.append((i, j, rows[i], stairs[i]))
            i = j
    return found


class Staircase:
    """Keys, values, stairs and pending hidden states of a batch.

    Args:
        n_layers: decoder layers.
        capacity: positions to make room for at first; grows by an eighth, and by `STEP` at least.
        audit: count how often each (layer, row, position) is written, for tests.
    """

    def __init__(self, n_layers: int, capacity: int = STEP, audit: bool = False) -> None:
        self.n_layers = n_layers
        self.length = 0
        self.n_rows = 0
        self.filled: list[list[int]] = [[] for _ in range(n_layers)]
        self.hidden: torch.Tensor | None = None
        self.keys: list[torch.Tensor | None] = [None] * n_layers
        self.values: list[torch.Tensor | None] = [None] * n_layers
        self.computed_cells = 0
        self.padding_cells = 0
        self.writes: torch.Tensor | None = torch.zeros(n_layers, 0, 0, dtype=torch.long) if audit else None
        self.limit: int | None = None  # positions there will ever be, where that is known: no room is made beyond
        self._capacity = max(1, capacity)

    def extend(self, embedded: torch.Tensor) -> None:
        """Append positions by their first-layer inputs `[rows, q, d_model]`."""
        rows, new, width = embedded.shape
        if self.hidden is None:
            self.n_rows = rows
            self.filled = [[0] * rows for _ in range(self.n_layers)]
            self._capacity = max(self._capacity, new)
            self.hidden = embedded.new_empty(rows, self._capacity, width)
            if self.writes is not None:
                self.writes = torch.zeros(self.n_layers, rows, self._capacity, dtype=torch.long)
        elif rows != self.n_rows:
            raise ValueError(f"the staircase holds {self.n_rows} rows, but {rows} rows were appended")
        self._reserve(self.length + new)
        self.hidden[:, self.length : self.length + new] = embedded
        self.length += new

    def block(self, layer: int, rows: list[int], span_worth: float = math.inf) -> Block:
        """The block of all positions that `rows` (ascending) lack at `layer`, under the layer below's finished stair.

        Args:
            span_worth: padding cells that cost as much as attending to one more span by itself; where there are more of
                them, the block is packed.
        """
        assert self.hidden is not None, "extend() first"
        filled = self.filled[layer]
        stairs = [filled[r] for r in rows]
        start = min(stairs)
        first, count = rows[0], len(rows)
        if span_worth < math.inf and max(stairs) > start:
            block = Block(layer, rows, self.n_rows, stairs, start, self.length, self.hidden, packed=True)
            padding = count * (self.length - start) - block.cells
            if padding > span_worth * (len(block.spans) - 1):
                block.hidden = torch.cat([self._cells(i, j, row, stair) for i, j, row, stair in block.spans])[None]
                return block
        hidden = self.hidden.narrow(1, start, self.length - start)
        if rows[-1] - first + 1 > count:
            hidden = hidden.index_select(0, torch.tensor(rows, device=self.hidden.device))
        elif count < self.n_rows:
            hidden = hidden.narrow(0, first, count)
        return Block(layer, rows, self.n_rows, stairs, start, self.length, hidden)

    def _cells(self, i: int, j: int, row: int, stair: int) -> torch.Tensor:
        """States of a span's cells, `[cells, d_model]`."""
        assert self.hidden is not None
        return self.hidden[row : row + j - i, stair : self.length].reshape(-1, self.hidden.shape[-1])

    def put(self, block: Block, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the block's keys and values, `[r, heads, width, head_dim]` or packed `[1, heads, cells, head_dim]`.

        Returns:
            The layer's buffers `[rows, heads, capacity, head_dim]`, of which `runs` and `stop` say what concerns the block.
        """
        return self._put(self.keys, block, keys), self._put(self.values, block, values)

    def _put(self, buffers: list[torch.Tensor | None], block: Block, new: torch.Tensor) -> torch.Tensor:
        buffer = buffers[block.layer]
        if buffer is None:  # a layer nobody has reached costs no memory
            _, heads, _, width = new.shape
            buffer = buffers[block.layer] = new.new_zeros(self.n_rows, heads, self._capacity, width)
        if block.packed:
            for (i, j, row, stair), (a, b) in zip(block.spans, block.ranges, strict=True):
                part = new[0, :, a:b].unflatten(1, (j - i, -1)).transpose(0, 1)
                buffer[row : row + j - i, :, stair : block.stop] = part
            return buffer
        for i, j, row, stair in block.spans:
            # narrow() where a slice would do: this runs twice per layer and token, and slicing costs twice as much.
            place = buffer.narrow(2, stair, block.stop - stair)
            if j - i < self.n_rows:
                place = place.narrow(0, row, j - i)
            place.copy_(
                new if j - i == len(block.rows) and stair == block.start else new[i:j, :, stair - block.start :]
            )
        return buffer

    def store(self, block: Block, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `put`; returns all keys and values of the block's rows, `[r, heads, stop, head_dim]` each."""
        whole = self.put(block, keys, values)
        if block.index is None:
            return whole[0][:, :, : block.stop], whole[1][:, :, : block.stop]
        return tuple(w.index_select(0, block.index)[:, :, : block.stop] for w in whole)  # type: ignore[return-value]

    def widen(self, block: Block, output: torch.Tensor) -> None:
        """Take the layer's output, in the form of `block.hidden`: it becomes the positions' deepest state, the stair
        rises."""
        assert self.hidden is not None
        if block.packed:
            for (i, j, row, stair), (a, b) in zip(block.spans, block.ranges, strict=True):
                self.hidden[row : row + j - i, stair : block.stop] = output[0, a:b].unflatten(0, (j - i, -1))
            self._rise(block)
            return
        for i, j, row, stair in block.spans:
            place = self.hidden.narrow(1, stair, block.stop - stair)
            if j - i < self.n_rows:
                place = place.narrow(0, row, j - i)
            place.copy_(
                output if j - i == len(block.rows) and stair == block.start else output[i:j, stair - block.start :]
            )
        self._rise(block)

    def _rise(self, block: Block) -> None:
        filled = self.filled[block.layer]
        for r in block.rows:
            if self.writes is not None:
                self.writes[block.layer, r, filled[r] : block.stop] += 1
            filled[r] = block.stop
        self.computed_cells += block.cells
        if not block.packed:
            self.padding_cells += len(block.rows) * (block.stop - block.start) - block.cells

    @torch.inference_mode()  # as what it moves was made
    def select(self, indices: torch.Tensor) -> None:
        """Row i becomes what row `indices[i]` was: beam reorder, expansion, or keeping some rows."""
        order = indices.tolist()
        if order == list(range(self.n_rows)) or self.hidden is None:
            return
        if any(not 0 <= i < self.n_rows for i in order):
            raise IndexError(f"row indices {order} do not fit a staircase of {self.n_rows} rows")
        at = indices.to(self.hidden.device)
        self.hidden = _reordered(self.hidden, 1, at, self.length)
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = _reordered(buffer, 2, at, self.length)
        self.filled = [[stairs[i] for i in order] for stairs in self.filled]
        if self.writes is not None:
            self.writes = self.writes[:, order]
        self.n_rows = len(order)

    @torch.inference_mode()
    def rollback(self, positions: int) -> None:
        """Forget the newest `positions` of every row; what lies below keeps its stair and its deepest state."""
        if not 0 <= positions <= self.length:
            raise ValueError(f"cannot roll back {positions} of {self.length} positions")
        self.length -= positions
        self.filled = [[min(p, self.length) for p in stairs] for stairs in self.filled]
        if self.writes is not None:
            self.writes[:, :, self.length :] = 0

    def _reserve(self, length: int) -> None:
        if length <= self._capacity:
            return
        self._capacity = max(length, self._capacity + max(STEP, self._capacity // 8))
        if self.limit is not None:
            self._capacity = max(length, min(self._capacity, self.limit))
        assert self.hidden is not None
        self.hidden = _grown(self.hidden, 1, self._capacity)
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = _grown(buffer, 2, self._capacity)
        if self.writes is not None:
            self.writes = _grown(self.writes, 2, self._capacity)


def _reordered(buffer: torch.Tensor, axis: int, order: torch.Tensor, length: int) -> torch.Tensor:
    if len(order) != buffer.shape[0]:
        return buffer.index_select(0, order)
    used = buffer.narrow(axis, 0, length)  # beams reorder at every step: leave the empty part alone
    used.copy_(used.index_select(0, order))
    return buffer


def _grown(buffer: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    shape = list(buffer.shape)
    shape[axis] = size
    bigger = buffer.new_zeros(shape)
    bigger.narrow(axis, 0, buffer.shape[axis]).copy_(buffer)
    return bigger
