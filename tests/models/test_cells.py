"""Rows and columns by boxes alone: what heads a cell's row and its column."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deed.data.synthetic.grids import grid_page
from deed.models.latr.cells import (
    BOTH,
    COLUMN,
    FOLLOWS,
    HEADED,
    MOST,
    NAMED,
    NONE,
    OWN,
    PRECEDES,
    ROW,
    cell_relations,
    cells_of,
    pieces_asked_for,
    quoted,
    said_of,
)

TABLE = [  # texts and left edges of a line, 30 apart
    [("Dear", 50), ("reader,", 96), ("this", 170), ("is", 215), ("text.", 240)],
    [],
    [("Item", 50), ("Unit", 300), ("price", 345), ("Qty", 600)],
    [("Old", 50), ("lamp", 85), ("$", 300), ("12", 318), ("7", 600)],
    [("Tea", 50), ("$", 300), ("900", 318), ("31", 600)],
    [("Rice", 50), ("$", 300), ("8", 318), ("4", 600)],
]


def placed(table, right=False):
    texts, boxes = [], []
    for i, line in enumerate(table):
        for text, x in line:
            wide = 8 * len(text)
            texts.append(text)
            y = 100 + 30 * i
            boxes.append((1000 - x - wide, y, 1000 - x, y + 16) if right else (x, y, x + wide, y + 16))
    return texts, boxes


def heads_of(texts, boxes):
    """By text, of every word: what heads its row, what heads its column, what else is of its cell."""
    found = cell_relations(torch.tensor([boxes]), torch.ones(1, len(boxes), dtype=torch.bool))[0].tolist()
    return {
        text: [" ".join(texts[j] for j in range(len(texts)) if row[j] == kind) for kind in (ROW, COLUMN, OWN)]
        for text, row in zip(texts, found, strict=True)
    }


@pytest.mark.parametrize("right", (False, True), ids=("left edges", "right edges"))
def test_a_table_of_cells(right):
    texts, boxes = placed(TABLE, right)
    found = heads_of(texts, boxes)
    assert found["text."] == ["", "", ""], "a line without wide spaces has no cells"
    if right:  # from right to left, the first cell of a row is the quantity
        assert found["900"] == ["31", "Unit price", "$ 900"] and found["Rice"] == ["4", "Item", "Rice"]
        return
    assert found["lamp"] == ["", "Item", "Old lamp"] and found["12"] == ["Old lamp", "Unit price", "$ 12"]
    assert found["900"] == ["Tea", "Unit price", "$ 900"] and found["4"] == ["Rice", "Qty", "4"]
    assert found["price"] == ["Item", "", "Unit price"], "what heads a column is in a row as well"


def test_lines_farther_away_are_of_another_table():
    fields = [[("Date:", 50), ("1.2.2003", 300)], [], []]
    texts, boxes = placed([*fields, *TABLE[2:]])
    assert heads_of(texts, boxes)["900"] == ["Tea", "Unit price", "$ 900"]
    assert heads_of(texts, boxes)["1.2.2003"] == ["Date:", "", "1.2.2003"]


def test_pieces_share_their_words_cell():
    _, boxes = placed(TABLE)
    twice = [i for i in range(len(boxes)) for _ in range(2)]
    alone = cell_relations(torch.tensor([boxes]), torch.ones(1, len(boxes), dtype=torch.bool))[0]
    found = cell_relations(torch.tensor([[boxes[i] for i in twice]]), torch.ones(1, len(twice), dtype=torch.bool))[0]
    assert torch.equal(found, alone[twice][:, twice])


def test_what_is_no_word_has_no_cell_and_changes_nothing():
    _, boxes = placed(TABLE)
    alone = cell_relations(torch.tensor([boxes]), torch.ones(1, len(boxes), dtype=torch.bool))[0]
    rest = [(0, 0, 1000, 1000), (300, 190, 310, 206), (0, 0, 0, 0)]
    words = torch.tensor([[True] * len(boxes) + [False] * 3] * 2)
    words[1] = False
    found = cell_relations(torch.tensor([[*boxes, *rest]] * 2), words)
    assert torch.equal(found[0, : len(boxes), : len(boxes)], alone) and (found[0, len(boxes) :] == NONE).all()
    assert (found[0, :, len(boxes) :] == NONE).all() and (found[1] == NONE).all()


def test_tables_of_the_training_are_read():
    rng, right, count = random.Random(0), 0, 0
    for _ in range(40):
        words, asked = grid_page(rng, 60)
        texts = [word.text for word in words]
        found = cell_relations(
            torch.tensor([[word.box for word in words]]), torch.ones(1, len(words), dtype=torch.bool)
        )
        for _, question, answer in asked:
            _, head, _, name, _ = question.split('"')
            cell = answer.split()
            at = next(i for i in range(len(texts)) if texts[i : i + len(cell)] == cell)
            named, headed = ([texts[j] for j in (found[0, at] == kind).nonzero().flatten()] for kind in (ROW, COLUMN))
            right += named == name.split() and headed == head.split()
            count += 1
    assert right > 0.85 * count > 100


def asked(boxes, page, *questions):
    """By question, the words that cells asked for begin with, and how they are asked for."""
    ids = [*page, *[piece for question in questions for piece in question]]
    numbers = [0] * len(page) + [k for k, question in enumerate(questions, 1) for _ in question]
    places = torch.tensor([[*boxes, *[(0, 0, 0, 0)] * (len(ids) - len(page))]])
    words = torch.tensor([numbers]) == 0
    found = cells_of(places, words, torch.tensor([ids]), torch.tensor([numbers])).asked[0]
    assert found.shape == (len(questions) + 1, len(ids)) and not found[0].any()
    return [{int(j): int(row[j]) for j in row.nonzero()} for row in found[1:]]


def test_a_question_names_the_row_and_the_column_of_its_cell():
    texts, boxes = placed(TABLE)
    page = [10 + texts.index(text) for text in texts]  # the same word has the same piece

    def pieces(text):
        return [10 + texts.index(word) if word in texts else 5 for word in text.split()]

    both, row, column, none = asked(
        boxes,
        page,
        pieces("what is the Unit price of Old lamp ?"),
        pieces("what comes after Tea ?"),
        pieces("which Qty is there ?"),
        pieces("is the word text. there ?"),
    )
    at = texts.index("12") - 1
    assert {j: kind for j, kind in both.items() if kind == BOTH} == {at: BOTH} and texts[at] == "$"
    assert {texts[j] for j, kind in both.items() if kind == NAMED} == {"7"}, "the other cell of the row"
    assert sorted(row) == [texts.index("900") - 1, texts.index("31")] and set(row.values()) == {NAMED}
    assert {texts[j] for j in column} == {"7", "31", "4"} and set(column.values()) == {HEADED}
    assert none == {}


def test_names_of_the_same_pieces_in_another_order_are_others():
    boxes = [(50, 100, 80, 116), (300, 100, 330, 116)]
    boxes += [(50, 130, 60, 146), (60, 130, 70, 146), (300, 130, 330, 146)]
    boxes += [(50, 160, 60, 176), (60, 160, 70, 176), (300, 160, 330, 176)]
    page = [10, 11, 21, 22, 30, 22, 21, 31]
    assert asked(boxes, page, [1, 11, 2, 21, 22]) == [{4: BOTH, 7: HEADED}]
    assert asked(boxes, page, [1, 11, 2, 22, 21]) == [{4: HEADED, 7: BOTH}]


def test_of_misread_names_the_nearest_is_meant():
    boxes = [(50, 100, 80, 116), (300, 100, 330, 116)]
    for y in (130, 160):
        boxes += [(50 + 10 * i, y, 60 + 10 * i, y + 16) for i in range(4)] + [(300, y, 330, y + 16)]
    page = [10, 11, 21, 22, 23, 99, 30, 21, 22, 98, 97, 31]
    marks = asked(boxes, page, [1, 11, 2, 21, 22, 23, 24])[0]
    assert marks[6] == BOTH and marks.get(11) != BOTH


def test_a_question_is_given_so_many_pieces_at_most():
    boxes, page = [], []
    for i in range(30):
        boxes += [(50, 30 * i, 80, 30 * i + 16), (300, 30 * i, 330, 30 * i + 16), (600, 30 * i, 630, 30 * i + 16)]
        page += [7, 20 + i, 50 + i]
    ids = torch.tensor([[*page, 7, 7, 1]])
    numbers = torch.tensor([[0] * len(page) + [1, 2, 2]])
    words, places = numbers == 0, torch.tensor([[*boxes, *[(0, 0, 0, 0)] * 3]])
    cells = cells_of(places, words, ids, numbers)
    found, owners, kinds = pieces_asked_for(cells)
    assert owners[0].tolist() == [1] * MOST + [2] * MOST and set(kinds[0].tolist()) == {NAMED}
    assert found[0, :MOST].tolist() == [i for i in range(len(page)) if i % 3][:MOST]


def beside(page, *questions):
    """By question, places behind and before what it quotes."""
    ids = [*page, *[piece for question in questions for piece in question]]
    numbers = [0] * len(page) + [k for k, question in enumerate(questions, 1) for _ in question]
    words = torch.tensor([numbers]) == 0
    found = quoted(said_of(torch.tensor([ids]), torch.tensor([numbers])), words)[0]
    assert not found[0].any() and not found[:, len(page) :].any()
    return [[(row == kind).nonzero().flatten().tolist() for kind in (FOLLOWS, PRECEDES)] for row in found[1:]]


def test_what_stands_beside_the_longest_run_that_a_question_quotes():
    page = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 4, 5]
    longer, two, one, none = beside(page, [1, 6, 7, 8, 2, 4, 5], [1, 4, 5], [1, 9, 2], [1, 2])
    assert longer == [list(range(6, 14)), [0, 1, 2]], "the longest run alone, on the page as far as it goes"
    assert two == [[*range(3, 11)], [0, *range(11, 17)]], "both places; behind goes before before"
    assert one == [[], []] and none == [[], []], "a single piece is no quotation"


def test_a_question_does_not_quote_what_stands_before_it():
    page = [3, 4, 5, 6, 7, 3]
    assert beside(page, [4, 9]) == [[[], []]], "3, 4 is of the page's end and the question's beginning"
    assert beside(page, [1, 6], [7, 9]) == [[[], []], [[], []]], "nor 6, 7 of two questions"


def test_what_stands_everywhere_is_no_quotation():
    assert beside([3, 4, 9, 3, 4, 8, 3, 4, 7, 3, 4], [1, 3, 4]) == [[[], []]]


@given(st.lists(st.tuples(*[st.integers(0, 60)] * 4), min_size=1, max_size=12))
def test_any_boxes_have_relations_that_fit(places):
    boxes = [(x, y, x + w, y + h) for x, y, w, h in places]
    found = cell_relations(torch.tensor([boxes]), torch.ones(1, len(boxes), dtype=torch.bool))[0]
    own = found == OWN
    assert torch.equal(own, own.T), "to share a cell is mutual"
    lower = torch.tensor([[a[1] + a[3] > b[1] + b[3] for b in boxes] for a in boxes])
    assert lower[found == COLUMN].all(), "the head of a column is above"
