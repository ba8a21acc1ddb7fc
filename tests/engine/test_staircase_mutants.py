"""One-line changes of the staircase that other tests let pass (found by mutation); each test fails for its change."""

import pytest
import torch

from deed.engine.staircase import Staircase

HEADS, WIDTH, D = 2, 3, 4


def numbered(*shape):
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64).view(shape)


def staircase_with_stairs(stairs, length):
    """One layer, `length` positions, filled per row up to `stairs` with zeros."""
    staircase = Staircase(1, capacity=length)
    staircase.extend(numbered(len(stairs), length, D))
    staircase.filled[0] = list(stairs)
    return staircase


@pytest.mark.parametrize("stairs", [[0, 2, 1], [3, 0, 2], [1, 1, 4], [2, 4, 4]])
def test_rows_of_an_unpacked_block_begin_at_their_own_stair(stairs):
    """The block is as wide as the row with the lowest stair needs; of the others, its first columns are left out."""
    length, rows = 6, [0, 1, 2]
    staircase = staircase_with_stairs(stairs, length)
    block = staircase.block(0, rows)
    assert (block.start, block.stop, block.packed) == (min(stairs), length, False)
    assert torch.equal(block.hidden, staircase.hidden[:, min(stairs) : length])
    keys = numbered(3, HEADS, length - min(stairs), WIDTH)
    found = staircase.put(block, keys, -keys)
    for row, stair in enumerate(stairs):
        for buffer, sign in zip(found, (1, -1), strict=True):
            assert torch.equal(buffer[row, :, stair:length], sign * keys[row, :, stair - min(stairs) :])
            assert not buffer[row, :, :stair].any(), "what lies under the stair was written before"


def test_ragged_rows_of_one_length_are_a_block_of_their_own():
    """Among rows of different lengths, a block of equally long ones is not packed, and ends where they do."""
    staircase = Staircase(1, capacity=8)
    staircase.extend(numbered(3, 2, D))
    staircase.extend(numbered(2, 3, D), rows=[0, 2])
    assert staircase.lengths == [5, 2, 5] and staircase.ragged
    same = staircase.block(0, [0, 2])
    assert not same.packed and (same.start, same.stop) == (0, 5)
    short = staircase.block(0, [1])
    assert not short.packed and (short.start, short.stop) == (0, 2)
    mixed = staircase.block(0, [0, 1, 2])
    assert mixed.packed and mixed.cells == 12 and mixed.hidden.shape == (1, 12, D)
    expected = torch.cat([staircase.hidden[r, :n] for r, n in enumerate([5, 2, 5])])
    assert torch.equal(mixed.hidden[0], expected)
