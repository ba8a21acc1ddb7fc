"""Rows and columns: by boxes alone, which words head the row and the column that a word stands in, and by their letters,
which of them a question names; and where on the page a question's own words stand.

What a cell of a table says follows from the first cell of its row and the top cell of its column, and neither is near it in
reading order. Attention that has offsets of boxes alone to go by looks along the row and up the column, at everything that is
there; a small model that answers from tables so finds half of the cells asked for (docs/latr.md has the figures). So rows and
columns are told apart here, and which of their heads a question names, as readers of text are told which of its words are in
the question (Chen et al., 2017, arXiv 1704.00051, section 3.2); attention is biased by both (`relative.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

NONE, ROW, COLUMN, OWN = range(4)  # how a word (query) sees another (key)
RELATIONS = 4
# How a question asks for a cell: by its row, its column, or both; or for words: by those before or behind them.
NAMED, HEADED, BOTH, FOLLOWS, PRECEDES = 1, 2, 3, 4, 5
ASKED = 6

GAP = 1.5  # heights of a word: a wider space in a line parts two cells
NEAR = 4  # heights: a line higher up belongs to another table
ALIGNED = 0.5  # heights: cells of a column have left edges, right edges or middles as near as that
LOOSE = 1.4  # times the least distance of a table's lines
FAR = 1 << 20
JUMPS = 6  # doublings: of up to 64 rows the top one is found

ENOUGH, HALF = 0.8, 0.5  # of the pieces of what heads a row or a column; the others are misread
RUN, PLACES = 1, 3  # pairs of pieces that are quoted at least, and places on the page that they stand at, at most
BEHIND, BEFORE = 8, 6  # pieces next to what is quoted
MOST = 40  # pieces of a question: a number may name half of a table's rows
SLOTS, PRIME = 1 << 14, 4099  # pieces, and pairs of them, are known by slots: few share one


class Said(NamedTuple):
    """Of every question, which tokens' pieces stand in it, and which of their pairs with the piece before: `[batch,
    questions + 1, n]` bool each; the first is of no question."""

    pieces: torch.Tensor
    pairs: torch.Tensor


class Cells(NamedTuple):
    """What is known of the cells of a batch of pages.

    Attributes:
        relations: of `cell_relations`.
        asked, beside: of `asked_cells` and `quoted`; None where the questions' pieces are not known.
    """

    relations: torch.Tensor
    asked: torch.Tensor | None = None
    beside: torch.Tensor | None = None


def cells_of(bbox: torch.Tensor, words: torch.Tensor, ids: torch.Tensor | None, question_ids: torch.Tensor) -> Cells:
    """All that is known of a batch.

    Args:
        bbox, words: see `cell_relations`.
        ids: `[batch, n]` pieces of page and questions; None: not known.
        question_ids: `[batch, n]`: 0 for the page, k for a token of its k-th question.
    """
    relations = cell_relations(bbox, words)
    if ids is None:
        return Cells(relations)
    said = said_of(ids, question_ids)
    return Cells(relations, asked_cells(relations, said, words), quoted(said, words))


def cell_relations(bbox: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Of every pair of words, whether the second is of the first cell of the first one's row (`ROW`), of the top cell of its
    column (`COLUMN`), of its own cell (`OWN`) or none of these.

    Words whose middles are within half of their mean height are of one line; wide spaces part a line into cells. Only lines of
    several cells have relations. Going up, a cell stands under the nearest one that overlaps it and is aligned with it, as
    long as lines are about as far apart as those below. Pieces of a word share its cell.

    Args:
        bbox: `[batch, n, 4]` integers.
        words: `[batch, n]` bool, which of them are words.

    Returns:
        `[batch, n, n]` int32.
    """
    x0, y0, x1, y1 = bbox.int().unbind(-1)
    height, twice = y1 - y0, y0 + y1  # of the middle
    both = words[:, :, None] & words[:, None, :]
    at = torch.arange(words.shape[1], device=words.device)
    heights = height[:, :, None] + height[:, None, :]
    below = twice[:, :, None] - twice[:, None, :]  # how much lower the query is, in half units
    line = both & (2 * below.abs() <= heights)
    left = line & (x0[:, None, :] < x0[:, :, None])  # the key is further to the left
    ends = torch.where(left, x1[:, None, :], -1).amax(-1)
    begins = (ends >= 0) & (x0 - ends > GAP * height)  # a cell, after another one
    # Left edge of the word's cell; -1: the first of its line.
    place = torch.where((left | (at[:, None] == at)) & begins[:, None, :], x0[:, None, :], -1).amax(-1)
    later = place >= 0
    many = (line & later[:, None, :]).any(-1)  # lines of several cells
    own = line & (place[:, :, None] == place[:, None, :]) & many[:, :, None] & many[:, None, :]
    first = line & later[:, :, None] & ~later[:, None, :]

    from_ = torch.where(own, x0[:, None, :], FAR).amin(-1)
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
    parent = torch.where((best >= 0) & (up <= LOOSE * least), parent, at)
    for _ in range(JUMPS):
        parent = parent.gather(1, parent)
    # Words askew may share a line with a cell and its head.
    top = own.gather(1, parent[:, :, None].expand_as(own)) & ~own & (below > 0)
    relations = torch.zeros_like(below)
    relations[own] = OWN
    relations[first] = ROW
    relations[top] = COLUMN
    return relations


def said_of(ids: torch.Tensor, question_ids: torch.Tensor) -> Said:
    """What stands in the questions. The first piece of a question makes no pair with what happens to stand before it.

    Args:
        ids, question_ids: see `cells_of`.
    """
    batch, n = ids.shape
    row = torch.arange(batch, device=ids.device)[:, None].expand(batch, n)
    shape = batch, int(question_ids.max()) + 1, n

    def stand(slots: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        said = ids.new_zeros(*shape[:2], SLOTS, dtype=torch.bool)
        said[row[there], question_ids[there], slots[there]] = True
        return said.gather(2, slots[:, None, :].expand(shape))

    pairs = (F.pad(ids[:, :-1], (1, 0)) * PRIME + ids) % SLOTS
    asks = question_ids > 0
    return Said(stand(ids % SLOTS, asks), stand(pairs, asks & (question_ids == F.pad(question_ids[:, :-1], (1, 0)))))


def asked_cells(relations: torch.Tensor, said: Said, words: torch.Tensor) -> torch.Tensor:
    """Of every question and every word, whether a cell begins with the word whose row and column the question names (`BOTH`),
    or whose row (`NAMED`) or column (`HEADED`) alone it names: what heads them stands in the question.

    Args:
        relations: of `cell_relations`.
        said: of `said_of`.
        words: `[batch, n]` bool, which tokens are words of the page.

    Returns:
        `[batch, questions + 1, n]` int32; the first is of no question.
    """
    own = relations == OWN
    within = F.pad(own.diagonal(-1, 1, 2), (1, 0))  # the piece before is of the same cell
    # In a row: "22:17" has all pieces of "17:22".
    found = said.pieces & (said.pairs | ~within[:, None, :])
    named, headed = (_share(found, relations == kind) for kind in (ROW, COLUMN))
    begins = words & own.diagonal(0, 1, 2) & ~within
    both = torch.where(begins[:, None, :] & (named >= HALF) & (headed >= HALF), named + headed, 0.0)
    kinds = torch.zeros_like(named, dtype=torch.int32)
    kinds[named >= ENOUGH] = NAMED
    kinds[headed >= ENOUGH] = HEADED
    kinds[(both > 0) & (both >= both.amax(-1, keepdim=True) - 0.01)] = BOTH
    kinds = kinds * begins[:, None, :]
    kinds[:, 0] = 0
    return kinds


def quoted(said: Said, words: torch.Tensor) -> torch.Tensor:
    """Of every question and every word, whether the word is one of the next behind (`FOLLOWS`) or before (`PRECEDES`) the
    longest run of words that the question has from the page: "which word comes after …?", "what is the number of section …?".

    Args:
        said, words: see `asked_cells`.

    Returns:
        `[batch, questions + 1, n]` int32; the first is of no question.
    """
    pairs = said.pairs & (words & F.pad(words[:, :-1], (1, 0)))[:, None, :]
    at = torch.arange(words.shape[1], device=words.device).expand_as(pairs)
    begun = torch.where(pairs, -1, at).cummax(-1).values  # where the run that a piece is of begins
    runs = at - begun
    longest = runs.amax(-1, keepdim=True)
    ends = (runs >= RUN) & (runs == longest)
    ends &= ends.sum(-1, keepdim=True) <= PLACES
    ends[:, 0] = False
    begins = torch.zeros_like(ends).scatter_reduce(2, begun, ends, "amax")
    beside = torch.zeros_like(runs, dtype=torch.int32)
    last = words.shape[1] - 1
    for step in range(1, min(BEFORE, last) + 1):
        beside[F.pad(begins[:, :, step:], (0, step))] = PRECEDES
    for step in range(1, min(BEHIND, last) + 1):
        beside[F.pad(ends[:, :, :-step], (step, 0))] = FOLLOWS
    return beside * words[:, None, :]


def pieces_asked_for(cells: Cells) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pieces that questions ask for: of the cells named by row and column, or where there are none, by the row; and those
    beside what is quoted.

    Args:
        cells: with `asked` and `beside`.

    Returns:
        Three times `[batch, pieces]` long, a page's questions one after the other: the places of the pieces, the numbers of
        the questions, and how they ask. Numbers are 0 where a page has fewer.
    """
    assert cells.asked is not None and cells.beside is not None
    both = cells.asked == BOTH
    settled = both.any(-1, keepdim=True)
    own = (cells.relations == OWN).to(torch.float32)
    of_cells = (both | ((cells.asked == NAMED) & ~settled)).to(torch.float32) @ own > 0
    wanted = of_cells | (cells.beside > 0)
    wanted &= wanted.cumsum(-1) <= MOST
    row, question, place = wanted.nonzero().unbind(1)
    counts = row.bincount(minlength=len(own))
    at = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    found = row.new_zeros(3, len(own), int(counts.max()))
    found[0, row, at], found[1, row, at] = place, question
    kinds = torch.where(settled[row, question, 0], BOTH, NAMED)
    found[2, row, at] = torch.where(of_cells[row, question, place], kinds, cells.beside[row, question, place])
    return found[0], found[1], found[2]


def _share(found: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """Of what heads each word, the share that is found: `[batch, questions, n]`."""
    heads_of = heads.to(torch.float32)
    return found.to(torch.float32) @ heads_of.transpose(1, 2) / heads_of.sum(-1).clamp(min=1)[:, None, :]


__all__ = [
    "ASKED",
    "BOTH",
    "COLUMN",
    "FOLLOWS",
    "HEADED",
    "NAMED",
    "NONE",
    "OWN",
    "PRECEDES",
    "RELATIONS",
    "ROW",
    "Cells",
    "asked_cells",
    "cell_relations",
    "cells_of",
    "pieces_asked_for",
    "quoted",
    "said_of",
]
