"""The block of positions that some rows still lack at one layer: what a layer is run on. See staircase.py for the picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch


class Grid(NamedTuple):
    """Where the cells of an aligned block lie in the batch.

    Attributes:
        positions: `[r, width]` long, of every place in the block; 0 where a row has no position there.
        rows: `[cells]` long, the batch row of each cell that is none of the padding, row after row.
        at: `[cells]` long, its position.
        places: `[cells]` long, its place in the flattened block; None: there is no padding.
    """

    positions: torch.Tensor
    rows: torch.Tensor
    at: torch.Tensor
    places: torch.Tensor | None

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """`[cells, …]` of what the block has at its places, `[r, width, …]`."""
        flat = values.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)


def grid_of(rows: list[int], stairs: list[int], stops: list[int], device: torch.device) -> Grid:
    """The grid of rows whose cells are right-aligned.

    Args:
        rows: row numbers, ascending.
        stairs: the first cell of each.
        stops: one beyond the last of each.
        device: of the result.
    """
    width = max(stop - stair for stair, stop in zip(stairs, stops, strict=True))
    positions = [[max(0, p) for p in range(stop - width, stop)] for stop in stops]
    cells = [
        (r, p, i * width + p - (stop - width))
        for i, (r, stair, stop) in enumerate(zip(rows, stairs, stops, strict=True))
        for p in range(stair, stop)
    ]
    found = torch.tensor(list(zip(*cells, strict=True)), device=device)
    padded = len(cells) < width * len(rows)
    return Grid(torch.tensor(positions, device=device), found[0], found[1], found[2] if padded else None)


@dataclass
class Block:
    """The pending positions of some rows at one layer.

    Attributes:
        layer: 0-based layer.
        rows: row numbers, ascending.
        n_rows: rows of the whole batch.
        stairs: where each of the rows' stair stands.
        start, stop: the positions spanned.
        stops: how long each of the rows is; None: `stop` for all.
        hidden: `[r, stop - start, d_model]`, the layer's input; packed: `[1, cells, d_model]`. May be a view of the
            buffer: read before `widen`.
        packed: see staircase.py.
        grid: of an aligned block, whose `hidden` is `[r, width, d_model]`; None of any other.
    """

    layer: int
    rows: list[int]
    n_rows: int
    stairs: list[int]
    start: int
    stop: int
    hidden: torch.Tensor
    packed: bool = False
    stops: list[int] | None = None
    grid: Grid | None = None

    @property
    def cells(self) -> int:
        """Positions to compute, padding apart."""
        total = self.stop * len(self.rows) if self.stops is None else sum(self.stops)
        return total - sum(self.stairs)

    @property
    def padding(self) -> int:
        """Places that are no cells."""
        width = self.stop - self.start if self.grid is None else self.hidden.shape[1]
        return 0 if self.packed else len(self.rows) * width - self.cells

    @cached_property
    def ranges(self) -> list[tuple[int, int]]:
        """Where the cells of each of `spans` lie in a packed block, row after row."""
        found, a = [], 0
        for i, j, _, stair, stop in self.spans:
            found.append((a, a + (j - i) * (stop - stair)))
            a = found[-1][1]
        return found

    def newest(self, output: torch.Tensor) -> torch.Tensor:
        """`[r, d_model]`: of a layer's output, or of its input, each row's newest position."""
        if not self.packed:
            return output[:, -1]
        stops = self.stops or [self.stop] * len(self.rows)
        ends = list(accumulate(stop - stair for stop, stair in zip(stops, self.stairs, strict=True)))
        return output[0].index_select(0, torch.tensor(ends, device=output.device) - 1)

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Rows that follow each other in the batch, as `(i, j, row)`: block rows i..j are the batch's row, row + 1 …
        What is sliced by runs is not copied."""
        count = len(self.rows)
        if self.rows[-1] - self.rows[0] + 1 == count:
            return [(0, count, self.rows[0])]
        return [(i, j, row) for i, j, row, _, _ in equal_runs(self.rows, [0] * count, [0] * count)]

    @cached_property
    def spans(self) -> list[tuple[int, int, int, int, int]]:
        """Runs of rows with equal stairs and lengths, as `(i, j, row, stair, stop)`: their positions stair..stop are new."""
        if self.stops is None and len(self.runs) == 1 and max(self.stairs) == self.start:
            return [(*self.runs[0], self.start, self.stop)]
        return equal_runs(self.rows, self.stairs, self.stops or [self.stop] * len(self.rows))

    def cells_of(self, states: torch.Tensor) -> torch.Tensor:
        """`[1, cells, d_model]`: the block's cells of states `[rows, length, d_model]`, packed."""
        parts = [states[row : row + j - i, stair:stop].flatten(0, 1) for i, j, row, stair, stop in self.spans]
        return torch.cat(parts)[None]

    def write(self, buffer: torch.Tensor, new: torch.Tensor, axis: int) -> None:
        """Put the block's cells of what a layer made where they belong; its padding goes nowhere.

        Args:
            buffer: of the batch, `[rows, length, d_model]` or `[rows, heads, length, head_dim]`.
            new: of the block, like `hidden`, or with heads before the places.
            axis: of places and positions, 1 or 2.
        """
        if self.grid is not None:
            if axis == 2:
                buffer, new = buffer.transpose(1, 2), new.transpose(1, 2)
            buffer[self.grid.rows, self.grid.at] = self.grid.take(new)
            return
        if self.packed:
            for (i, j, row, stair, stop), (a, b) in zip(self.spans, self.ranges, strict=True):
                part = new[0].narrow(axis - 1, a, b - a).unflatten(axis - 1, (j - i, -1))
                place = buffer[row : row + j - i].narrow(axis, stair, stop - stair)
                place.copy_(part.transpose(0, 1) if axis == 2 else part)
            return
        for i, j, row, stair, _ in self.spans:
            # narrow() where a slice would do: this runs thrice per layer and token, and slicing costs twice as much.
            place = buffer.narrow(axis, stair, self.stop - stair)
            if j - i < self.n_rows:
                place = place.narrow(0, row, j - i)
            whole = j - i == len(self.rows) and stair == self.start
            place.copy_(new if whole else new[i:j].narrow(axis, stair - self.start, self.stop - stair))

    @cached_property
    def index(self) -> torch.Tensor | None:
        """`rows` as a tensor, or None where it is every row in order."""
        return None if len(self.rows) == self.n_rows else torch.tensor(self.rows, device=self.hidden.device)


def equal_runs(rows: list[int], stairs: list[int], stops: list[int]) -> list[tuple[int, int, int, int, int]]:
    """Runs of neighbouring rows with equal stairs and stops, as `(i, j, row, stair, stop)`.

    Args:
        rows: row numbers, ascending.
        stairs: of each of them.
        stops: of each of them.
    """
    found = []
    i = 0
    for j in range(1, len(rows) + 1):
        if j == len(rows) or rows[j] != rows[j - 1] + 1 or stairs[j] != stairs[i] or stops[j] != stops[i]:
            found.append((i, j, rows[i], stairs[i], stops[i]))
            i = j
    return found


def newest_cells(block: Block, output: torch.Tensor, wanted: list[int]) -> torch.Tensor:
    """`[cells, d_model]`: of a layer's output each row's newest positions, row after row.

    Args:
        block: what the layer ran on.
        output: like `block.hidden`.
        wanted: of how many of its positions each of the block's rows is asked for.
    """
    if not block.packed:
        if min(wanted) == max(wanted):
            return output[:, -wanted[0] :].flatten(0, 1)
        return torch.cat([output[i, -n:] for i, n in enumerate(wanted)])
    stops = block.stops or [block.stop] * len(block.rows)
    ends = accumulate(stop - stair for stop, stair in zip(stops, block.stairs, strict=True))
    return torch.cat([output[0, end - n : end] for end, n in zip(ends, wanted, strict=True)])
