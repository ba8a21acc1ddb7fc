"""What has been computed per row and layer; independent of models, exits and Transformers.

The picture: in one row, the number of leading positions whose layer-l keys and values exist only falls with l, so the
computed region is a staircase. `filled[l][r]` is that number. Everything under the stair is exact. The only other thing
to keep is the deepest hidden state of every position, in one buffer `[rows, length, d_model]`.

A step appends new positions (`extend`) and walks down the layers. At layer l it takes the pending block of positions
(`block`), runs it, hands in keys and values (`store`) and then the layer's output (`widen`), which widens that stair.

Rows have lengths and stairs of their own, and may join and leave. In general a block is *packed*: its rows' cells (pending
positions) one after the other in a single row. Whatever works on positions one by one does not notice; attention goes by
`spans`. Among rows of equal length a block may be *padded* instead, which is cheaper where stairs are alike: it is
right-aligned and spans positions start..length for all its rows, start being the lowest stair among them, so that mask,
bias and positions are shared. Where a row's stair is higher, its cells in the block are padding: the layer computes them
(from deeper states, so the values mean nothing), and both `put` and `widen` drop them. Rows of different length may be
right-aligned as well (an *aligned* block): every row then has positions, mask and bias of its own, and one attention
serves all of them.

An exit may have a layer of its own (`adapter="layer"`), a branch off the decoder. It has a stair of its own, numbered after
the decoder's layers, and reads a buffer of its own: the states of its exit's depth, kept as they are made (`branch_off`).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .block import Block, Grid, equal_runs, grid_of
from .row_room import appended, grown, reordered

STEP = 8  # positions that buffers grow by at least


class Staircase:
    """Keys, values, stairs and pending hidden states of a batch.

    Attributes:
        lengths: how many positions each row has; `length` is the longest, `ragged` says whether they differ.
        filled: `[layer][row]`, the stairs.

    Args:
        n_layers: decoder layers.
        capacity: positions to make room for at first; grows by an eighth, and by `STEP` at least.
        audit: count how often each (layer, row, position) is written, for tests.
    """

    def __init__(self, n_layers: int, capacity: int = STEP, audit: bool = False) -> None:
        self.n_layers = n_layers
        self.branches: dict[int, int] = {}  # by the layer it follows (0-based) the number of an exit's own layer
        self.branch_hidden: list[torch.Tensor | None] = []  # what these read, like `hidden`
        self.length = 0
        self.lengths: list[int] = []
        self.ragged = False
        self.n_rows = 0
        self.filled: list[list[int]] = [[] for _ in range(n_layers)]
        self.hidden: torch.Tensor | None = None
        self.keys: list[torch.Tensor | None] = [None] * n_layers
        self.values: list[torch.Tensor | None] = [None] * n_layers
        self.computed_cells = 0
        self.padding_cells = 0
        self.writes: torch.Tensor | None = torch.zeros(n_layers, 0, 0, dtype=torch.long) if audit else None
        self.limit: int | None = None  # the maximum number of positions, if known; buffers do not grow beyond it
        self._capacity = max(1, capacity)
        # That of the newest aligned block: most layers of a pass need the same.
        self._grid: tuple[Any, Grid] | None = None

    def add_branches(self, depths: list[int]) -> None:
        """Make stairs for exits' own layers; once, and in any case before there are positions.

        Args:
            depths: of these exits, 1-based.

        Raises:
            ValueError: there are positions, of a model with other exits.
        """
        wanted = {depth - 1: self.n_layers + i for i, depth in enumerate(depths)}
        if wanted == self.branches:
            return
        if self.length or self.branches:
            raise ValueError("this cache belongs to a model with other exits: start without past_key_values")
        self.branches, self.branch_hidden = wanted, [None] * len(depths)
        self.keys += [None] * len(depths)
        self.values += [None] * len(depths)
        self.filled += [[0] * self.n_rows for _ in depths]
        if self.writes is not None:
            more = self.writes.new_zeros(len(depths), *self.writes.shape[1:])
            self.writes = torch.cat([self.writes, more])

    def extend(self, embedded: torch.Tensor, rows: list[int] | None = None) -> None:
        """Append positions by their first-layer inputs `[r, q, d_model]`, to `rows` (ascending) or to all.

        Raises:
            ValueError: another number of rows than are there.
        """
        count, new, _ = embedded.shape
        if self.hidden is None:
            self._capacity = max(self._capacity, new)
            self.make_rows(count, embedded[0])
        assert self.hidden is not None
        if count != (self.n_rows if rows is None else len(rows)):
            raise ValueError(f"the staircase holds {self.n_rows} rows, but {count} rows were appended")
        if not self.ragged and count == self.n_rows:
            self._reserve(self.length + new)
            self.hidden[:, self.length : self.length + new] = embedded
            self._set_lengths([self.length + new] * count)
            return
        rows = list(range(count)) if rows is None else rows
        lengths = list(self.lengths)
        for r in rows:
            lengths[r] += new
        self._reserve(max(lengths))
        ends = [lengths[r] for r in rows]
        runs = equal_runs(rows, ends, ends)
        if len(runs) > 2 and new == 1:
            at = torch.tensor([rows, ends], device=embedded.device)
            self.hidden[at[0], at[1] - 1] = embedded[:, 0]
            runs = []
        for i, j, row, _, stop in runs:
            self.hidden[row : row + j - i, stop - new : stop] = embedded[i:j]
        self._set_lengths(lengths)

    def make_rows(self, count: int, like: torch.Tensor) -> None:
        """Make `count` rows without positions, whose states are like `like`, `[…, d_model]`."""
        self.n_rows = count
        self.filled = [[0] * count for _ in self.keys]
        self.lengths = [0] * count
        self.hidden = like.new_empty(count, self._capacity, like.shape[-1])
        if self.writes is not None:
            self.writes = torch.zeros(len(self.keys), count, self._capacity, dtype=torch.long)

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.length = max(lengths, default=0)
        self.ragged = min(lengths, default=0) != self.length

    def block(self, layer: int, rows: list[int], span_worth: float = math.inf, align: bool = False) -> Block:
        """The block of all positions that `rows` (ascending) lack at `layer`, under the layer below's finished stair.

        Args:
            layer: 0-based; or the number of an exit's own.
            rows: each lacks some.
            span_worth: padding cells that cost as much as attending to one more span by itself; where there are more of
                them, the block is packed.
            align: rows of different length may be aligned, else they are packed.
        """
        source = self._source(layer)
        filled, stop = self.filled[layer], self.length
        stairs = [filled[r] for r in rows]
        start = min(stairs)
        first, count = rows[0], len(rows)
        stops = [self.lengths[r] for r in rows] if self.ragged else None
        if stops is not None:
            stop = max(stops)
            stops = None if min(stops) == stop else stops  # these rows are of one length
        if stops is not None or (span_worth < math.inf and max(stairs) > start):
            block = Block(layer, rows, self.n_rows, stairs, start, stop, source, packed=True, stops=stops)
            padding = count * (stop - start) - block.cells
            if stops is not None and align:
                width = max(b - a for a, b in zip(stairs, stops, strict=True))
                # Gathering and scattering takes as long as two spans.
                if span_worth == math.inf or count * width - block.cells <= span_worth * (len(block.spans) - 2):
                    return self._aligned(block, stops)
            if stops is not None or padding > span_worth * (len(block.spans) - 1):
                block.hidden = block.cells_of(source)
                return block
        hidden = source.narrow(1, start, stop - start)
        if rows[-1] - first + 1 > count:
            hidden = hidden.index_select(0, torch.tensor(rows, device=source.device))
        elif count < self.n_rows:
            hidden = hidden.narrow(0, first, count)
        return Block(layer, rows, self.n_rows, stairs, start, stop, hidden)

    def _source(self, layer: int) -> torch.Tensor:
        """`[rows, capacity, d_model]`: what a layer reads."""
        source = self.hidden if layer < self.n_layers else self.branch_hidden[layer - self.n_layers]
        assert source is not None, "extend() first"
        return source

    def _aligned(self, block: Block, stops: list[int]) -> Block:
        source = block.hidden
        key = (block.rows, block.stairs, stops, source.shape[0])
        if self._grid is None or self._grid[0] != key:
            self._grid = (key, grid_of(block.rows, block.stairs, stops, source.device))
        block.packed, block.grid = False, self._grid[1]
        rows = torch.tensor(block.rows, device=source.device)[:, None]
        block.hidden = source[rows, block.grid.positions]
        return block

    def earlier(self, layer: int, rows: list[int]) -> Block | None:
        """A packed block of what rows lack at an exit's own layer, each one's newest position apart; None where that is all.

        Args:
            layer: its number.
            rows: ascending.
        """
        filled, source = self.filled[layer], self._source(layer)
        behind = [r for r in rows if filled[r] < self.lengths[r] - 1]
        if not behind:
            return None
        stairs, stops = [filled[r] for r in behind], [self.lengths[r] - 1 for r in behind]
        block = Block(layer, behind, self.n_rows, stairs, min(stairs), max(stops), source, packed=True, stops=stops)
        block.hidden = block.cells_of(source)
        return block

    def branch_off(self, block: Block, output: torch.Tensor) -> None:
        """Keep a layer's output, in the form of `block.hidden`, for the exit's own layer that reads it, if there is one."""
        layer = self.branches.get(block.layer)
        if layer is None:
            return
        at = layer - self.n_layers
        if self.branch_hidden[at] is None:
            self.branch_hidden[at] = output.new_zeros(self.n_rows, self._capacity, output.shape[-1])
        block.write(self.branch_hidden[at], output, 1)  # type: ignore[arg-type]

    def put(self, block: Block, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the block's keys and values, `[r, heads, width, head_dim]` or packed `[1, heads, cells, head_dim]`.

        Args:
            block: where they belong.
            keys: in the form above.
            values: like `keys`.

        Returns:
            The layer's buffers `[rows, heads, capacity, head_dim]`, of which `runs` and `stop` say what concerns the block.
        """
        for buffers, new in ((self.keys, keys), (self.values, values)):
            if buffers[block.layer] is None:  # a layer that no row has reached takes no memory
                _, heads, _, width = new.shape
                buffers[block.layer] = new.new_zeros(self.n_rows, heads, self._capacity, width)
            block.write(buffers[block.layer], new, 2)  # type: ignore[arg-type]
        return self.keys[block.layer], self.values[block.layer]  # type: ignore[return-value]

    def store(self, block: Block, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `put`; returns all keys and values of the block's rows, `[r, heads, stop, head_dim]` each.

        Args:
            block: where they belong; not packed.
            keys: see `put`.
            values: see `put`.
        """
        whole = self.put(block, keys, values)
        at = block.index
        keys, values = whole if at is None else (buffer.index_select(0, at) for buffer in whole)
        return keys[:, :, : block.stop], values[:, :, : block.stop]

    def widen(self, block: Block, output: torch.Tensor) -> None:
        """Take the layer's output, in the form of `block.hidden`: it becomes the positions' deepest state, the stair
        rises."""
        assert self.hidden is not None
        block.write(self.hidden, output, 1)
        self.rise(block)
        self.computed_cells += block.cells
        self.padding_cells += block.padding

    def rise(self, block: Block) -> None:
        """The block's keys and values are there: its rows' stair rises."""
        filled = self.filled[block.layer]
        for i, r in enumerate(block.rows):
            stop = block.stop if block.stops is None else block.stops[i]
            if self.writes is not None:
                self.writes[block.layer, r, filled[r] : stop] += 1
            filled[r] = stop

    @torch.inference_mode()  # in the same mode as the tensors it moves
    def select(self, indices: torch.Tensor) -> None:
        """Row i becomes what row `indices[i]` was: beam reorder, expansion, or keeping some rows."""
        order = indices.tolist()
        if order == list(range(self.n_rows)) or self.hidden is None:
            return
        if any(not 0 <= i < self.n_rows for i in order):
            raise IndexError(f"row indices {order} do not fit a staircase of {self.n_rows} rows")
        at = indices.to(self.hidden.device)
        self.hidden = reordered(self.hidden, 1, at, self.length)
        for buffers, axis in self._buffers():
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = reordered(buffer, axis, at, self.length)
        self.filled = [[stairs[i] for i in order] for stairs in self.filled]
        if self.writes is not None:
            self.writes = self.writes[:, order]
        self.n_rows = len(order)
        self._set_lengths([self.lengths[i] for i in order])

    @torch.inference_mode()
    def join(self, other: Staircase) -> None:
        """Append the rows of `other`, which keep their lengths and stairs; `other` stays as it is.

        Raises:
            ValueError: it is empty, or of another number of layers, width or dtype.
        """
        if self.hidden is None or other.hidden is None:
            raise ValueError("a staircase without positions has no rows that could join: extend() first")
        mine, theirs = ((len(s.filled), h.shape[-1], h.dtype) for s, h in ((self, self.hidden), (other, other.hidden)))
        if mine != theirs:
            raise ValueError(f"rows of a decoder of (layers, width, dtype) {theirs} cannot join one of {mine}")
        size = self._capacity = max(self._capacity, other._capacity)
        n, m = self.n_rows, other.n_rows
        self.hidden = appended(self.hidden, other.hidden, n, m, 1, size)
        for (buffers, axis), (others, _) in zip(self._buffers(), other._buffers(), strict=True):
            for layer, (a, b) in enumerate(zip(buffers, others, strict=True)):
                buffers[layer] = appended(a, b, n, m, axis, size)
        if self.writes is not None:
            added = self.writes.new_zeros(len(self.keys), m, size) if other.writes is None else other.writes
            self.writes = torch.cat([grown(self.writes, 2, size), grown(added, 2, size)], 1)
        self.filled = [[*a, *b] for a, b in zip(self.filled, other.filled, strict=True)]
        self.limit = None if self.limit is None or other.limit is None else max(self.limit, other.limit)
        self.n_rows += m
        self.computed_cells += other.computed_cells
        self.padding_cells += other.padding_cells
        self._set_lengths([*self.lengths, *other.lengths])

    @torch.inference_mode()
    def rollback(self, positions: int | list[int]) -> None:
        """Forget the newest `positions` of every row, or a number of each row's own; what lies below keeps its stair and its
        deepest state.

        Raises:
            ValueError: a row has fewer, or there are not as many numbers as rows.
        """
        each = [positions] * self.n_rows if isinstance(positions, int) else positions
        if len(each) != self.n_rows:
            raise ValueError(f"the staircase holds {self.n_rows} rows, but {len(each)} are to be rolled back")
        for r, (gone, length) in enumerate(zip(each, self.lengths, strict=True)):
            if not 0 <= gone <= length:
                raise ValueError(f"cannot roll back {gone} of {length} positions (row {r})")
        if not any(each):
            return
        self._set_lengths([n - gone for n, gone in zip(self.lengths, each, strict=True)])
        self.filled = [[min(p, n) for p, n in zip(stairs, self.lengths, strict=True)] for stairs in self.filled]
        if self.writes is not None:
            for r, n in enumerate(self.lengths):
                self.writes[:, r, n:] = 0

    def _buffers(self) -> tuple[tuple[list[torch.Tensor | None], int], ...]:
        """Beside `hidden`, what there is by layer, and the axis of its positions."""
        return (self.keys, 2), (self.values, 2), (self.branch_hidden, 1)

    def _reserve(self, length: int) -> None:
        if length <= self._capacity:
            return
        self._capacity = max(length, self._capacity + max(STEP, self._capacity // 8))
        if self.limit is not None:
            self._capacity = max(length, min(self._capacity, self.limit))
        assert self.hidden is not None
        self.hidden = grown(self.hidden, 1, self._capacity)
        for buffers, axis in self._buffers():
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = grown(buffer, axis, self._capacity)
        if self.writes is not None:
            self.writes = grown(self.writes, 2, self._capacity)
