"""Rows and columns: by boxes alone, which words head the row and the column that a word stands in.

What a cell of a table says follows from the first cell of its row and the top cell of its column, and neither is near it in
reading order. Attention that has offsets of boxes alone to go by looks along the row and up the column, at everything that is
there; a model that answers from tables then finds the row and guesses the column (docs/latr.md has the figures). So the pairs
are told apart here, and attention is biased by them (`relative.py`).
"""

from __future__ import annotations

import torch

NONE, ROW, COLUMN, OWN = range(4)  # how a word (query) sees another (key)
RELATIONS = 4
GAP = 1.5  # heights of a word: a wider space in a line parts two cells
NEAR = 4  # heights: a line higher up belongs to another table
ALIGNED = 0.5  # heights: cells of a column have left edges, right edges or middles as near as that, twice
LOOSE = 1.4  # times the least distance of a table's lines
FAR = 1 << 20
JUMPS = 6  # doublings: of up to 64 rows the top one is found


def cell_relations(bbox: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Of every pair of words, whether the second is of the first cell of the first one's row (`ROW`), of the top cell of its
    column (`COLUMN`), of its own cell (`OWN`) or none of these.

    Words whose middles are within half of their mean height are of one line; wide spaces part a line into cells. Only lines of
    several cells have relations. Going up, a cell stands under the nearest one that overlaps it and is aligned with it, as
    long as lines are about as far apart as those below. Pieces of a word, which share its box, are of one cell.

    Args:
        bbox: `[batch, n, 4]` integers.
        words: `[batch, n]` bool, which of them are words.

    Returns:
        `[batch, n, n]` int32.
    """
    x0, y0, x1, y1 = bbox.int().unbind(-1)
    height, twice = y1 - y0, y0 + y1  # of the middle
    both = words[:, :, None] & words[:, None, :]
    heights = height[:, :, None] + height[:, None, :]
    below = twice[:, :, None] - twice[:, None, :]  # how much lower the query is, in half units
    line = both & (2 * below.abs() <= heights)
    left = line & (x0[:, None, :] < x0[:, :, None])  # the key is further to the left
    ends = torch.where(left, x1[:, None, :], -1).amax(-1)
    begins = (ends >= 0) & (x0 - ends > GAP * height)  # a cell, after another one
    # Left edge of the word's cell; -1: the first of its line.
    place = torch.where((left | _itself(line)) & begins[:, None, :], x0[:, None, :], -1).amax(-1)
    later = place >= 0
    many = (line & later[:, None, :]).any(-1)  # lines of several cells
    own = line & (place[:, :, None] == place[:, None, :]) & many[:, :, None]
    first = line & later[:, :, None] & ~later[:, None, :]

    from_ = torch.where(own, x0[:, None, :], 1 << 20).amin(-1)
    to = torch.where(own, x1[:, None, :], -1).amax(-1)
    edges = [(side[:, :, None] - side[:, None, :]).abs() for side in (2 * from_, 2 * to, from_ + to)]
    aligned = torch.minimum(torch.minimum(edges[0], edges[1]), edges[2]) <= ALIGNED * heights
    overlap = torch.minimum(to[:, :, None], to[:, None, :]) > torch.maximum(from_[:, :, None], from_[:, None, :])
    above = many[:, :, None] & many[:, None, :] & overlap & aligned & (2 * below > heights) & (below <= NEAR * heights)
    best, parent = torch.where(above, twice[:, None, :], -1).max(-1)  # the nearest
    up = torch.where(best >= 0, twice - best, FAR)
    # A line is as far from the next one up as others of its table are: the least distance of those below it, along the line.
    least = torch.full_like(up, FAR).scatter_reduce(1, parent, up, "amin")
    least = torch.where(line, least[:, None, :], FAR).amin(-1)
    parent = torch.where(
        (best >= 0) & (up <= LOOSE * least), parent, torch.arange(parent.shape[1], device=parent.device)
    )
    for _ in range(JUMPS):
        parent = parent.gather(1, parent)
    top = own.gather(1, parent[:, :, None].expand_as(own)) & ~own
    relations = torch.zeros_like(below)
    relations[own] = OWN
    relations[first] = ROW
    relations[top] = COLUMN
    return relations


def _itself(like: torch.Tensor) -> torch.Tensor:
    return torch.eye(like.shape[1], dtype=torch.bool, device=like.device)


__all__ = ["COLUMN", "NONE", "OWN", "RELATIONS", "ROW", "cell_relations"]
