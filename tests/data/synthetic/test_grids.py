"""Tables to look up: an answer stands in the row and under the head that its question names, as the boxes alone tell."""

import itertools
import random
import re

import pytest

from deed.data.synthetic.grids import grid_page


def rows_of_cells(words):
    """What boxes alone give: lines by height, cells by the gaps between words. `[[(text, left, right)]]`."""
    lines = {}
    for word in words:
        lines.setdefault(word.box[1], []).append(word)
    found = []
    for _, line in sorted(lines.items()):
        cells = []
        for word in line:
            if cells and word.box[0] - cells[-1][2] < 15:
                cells[-1] = (f"{cells[-1][0]} {word.text}", cells[-1][1], word.box[2])
            else:
                cells.append((word.text, word.box[0], word.box[2]))
        found.append(cells)
    return found


@pytest.mark.parametrize("known", [(), ("alpha", "beta", "gamma")])
def test_answers_stand_in_the_row_named_and_under_the_head_named(known):
    rng = random.Random(0)
    seen = 0
    for _ in range(60):
        words, asked = grid_page(rng, rng.choice((14, 40, 120, 300)), known)
        rows = rows_of_cells(words)
        for kind, question, answer in asked:
            head_text, name = re.fullmatch(r'what is the "(.+)" of "(.+)"\?', question).groups()
            head = next(cell for row in rows for cell in row[1:] if cell[0] == head_text)
            row = next(row for row in rows if row[0][0] == name and len(row) > 1)
            under = [text for text, left, right in row if abs(left - head[1]) <= 1 or abs(right - head[2]) <= 2]
            assert kind == "table" and answer in under
            seen += len(under) == 1
    assert seen > 200


def test_words_are_within_the_page_and_cells_do_not_overlap():
    rng = random.Random(1)
    for i in range(300):
        long = ("https://example.org/a/very/long/address", "of", "a" * 90)
        words, _ = grid_page(rng, rng.choice((14, 60, 200)), long * (i % 2))
        assert all(0 <= w.box[0] < w.box[2] <= 1000 and 0 <= w.box[1] < w.box[3] <= 1000 and w.text for w in words)
        lines = {}
        for word in words:
            lines.setdefault(word.box[1], []).append(word.box)
        for boxes in lines.values():
            assert all(a[2] <= b[0] + 1 for a, b in itertools.pairwise(boxes) if a[1] < 984)


def test_a_page_has_about_as_many_words_as_wanted_and_its_seed_decides_it():
    rng = random.Random(2)
    sizes = [len(grid_page(rng, 60)[0]) for _ in range(100)]
    assert 40 < sum(sizes) / len(sizes) < 90
    assert grid_page(random.Random(3), 50) == grid_page(random.Random(3), 50) != grid_page(random.Random(4), 50)
