"""The order in which the lines of a page are read, from their boxes in the order of the page's content."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]

UP_JUMPS = 3  # times that the text of columns may go on further up before its order is no reading order
GUTTER = 1.2  # of the type size: columns are at least so far apart
COLUMN_LINES = 4  # there are on either side of a gutter, at least
COLUMN_WIDTH = 0.3  # and how wide either side is, share of the page's width


def reading_order(boxes: Sequence[tuple[Box, float]]) -> list[int]:
    """Places of lines in the order in which they are read: that of the content, where it reads on downwards and columns start
    anew at the top; else column by column, each row by row, from left to right.

    Args:
        boxes: of the lines in the order of the page's content, each with its type size.
    """
    if len(boxes) < 2:
        return list(range(len(boxes)))
    columns = others = 0
    for ((x0, y0, x1, _), size), (after, _) in itertools.pairwise(boxes):
        if after[1] < y0 - size:
            columns, others = (columns + 1, others) if after[0] > x1 - (x1 - x0) / 2 else (columns, others + 1)
    if others == 0 or (columns and columns + others <= UP_JUMPS + 0.05 * len(boxes)):
        return list(range(len(boxes)))
    return [i for column in _columns(boxes) for i in _row_by_row(boxes, column)]


def _row_by_row(boxes: Sequence[tuple[Box, float]], which: Sequence[int]) -> Iterator[int]:
    """Lines row by row, each row from left to right.

    Args:
        boxes: of all lines, each with its type size.
        which: the lines that are put in order.
    """
    rows: list[list[int]] = []
    for i in sorted(which, key=lambda i: boxes[i][0][1] + boxes[i][0][3]):
        (_, y0, _, y1), size = boxes[i]
        if rows:
            (_, top, _, bottom), other = boxes[rows[-1][0]]
            if abs((y0 + y1) - (top + bottom)) / 2 < min(size, other) / 2:
                rows[-1].append(i)
                continue
        rows.append([i])
    for row in rows:
        yield from sorted(row, key=lambda i: boxes[i][0][0])


def _columns(boxes: Sequence[tuple[Box, float]]) -> list[list[int]]:
    """The lines of two columns, where a gutter parts the page from top to bottom; else all lines together. Gutters within
    tables part narrow columns, or leave one side with few lines."""
    everything = list(range(len(boxes)))
    size = statistics.median(size for _, size in boxes)
    left_edge, right_edge = min(box[0] for box, _ in boxes), max(box[2] for box, _ in boxes)
    reached, widest = left_edge, (0.0, 0.0)
    for x0, x1 in sorted((box[0], box[2]) for box, _ in boxes):
        if x0 - reached > GUTTER * size and min(reached - left_edge, right_edge - x0) > COLUMN_WIDTH * (
            right_edge - left_edge
        ):
            widest = max(widest, (x0 - reached, x0))
        reached = max(reached, x1)
    if not widest[0]:
        return [everything]
    left = [i for i in everything if boxes[i][0][0] < widest[1]]
    right = [i for i in everything if boxes[i][0][0] >= widest[1]]
    wide = [statistics.median(boxes[i][0][2] - boxes[i][0][0] for i in side) for side in (left, right)]
    prose = max(wide) > COLUMN_WIDTH * (right_edge - left_edge)
    return [left, right] if prose and min(len(left), len(right)) >= COLUMN_LINES else [everything]
