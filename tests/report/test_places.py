"""Where an answer was read: values and their tokens, the words that spell them, and room for the labels."""

import pytest

from deed.report import depth_runs, text_pieces
from deed.report.labels import SIDES, label_spots, place_labels
from deed.report.places import find_boxes, is_json, lines_of, tokens_within, values_of

END = "</s>"
WORDS = [
    ("Subtotal:", (50, 100, 150, 120)),
    ("25.00", (700, 100, 760, 120)),
    ("Total:", (50, 200, 130, 220)),
    ("25.00", (700, 200, 760, 220)),
    ("No.:4711-A", (50, 300, 200, 320)),
    ("Sep", (300, 400, 340, 420)),
    ("18,", (350, 402, 380, 422)),
    ("2026", (390, 401, 440, 421)),
    ("12", (300, 500, 320, 520)),
    ("Main", (330, 500, 390, 520)),
    ("Street", (300, 540, 380, 560)),
    ("Due", (600, 600, 640, 620)),
    ("2023-02-22", (600, 640, 700, 660)),
]


def test_values_of_a_json_answer():
    answer = '{"number":"4711-A","date":"Sep 18, 2026","note":"5\\" pipe"}'
    assert [(v.key, v.text) for v in values_of(answer)] == [
        ("number", "4711-A"),
        ("date", "Sep 18, 2026"),
        ("note", '5" pipe'),
    ]
    assert all(answer[v.start : v.end] in answer and answer[v.start - 1] == '"' for v in values_of(answer))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"total":"25.00","date":"Sep', [("total", "25.00")]),  # cut off
        ('{"', []),
        ("", [("", "")]),
        ("a {} b", [("", "a {} b")]),
        ('{"a\\q":"\\q"}', [("a\\q", "\\q")]),  # no JSON escape, kept as it stands
    ],
)
def test_values_of_odd_answers(answer, expected):
    assert [(v.key, v.text) for v in values_of(answer)] == expected
    assert is_json(answer) == answer.startswith('{"')


def test_tokens_of_a_value():
    pieces = ['{"', "total", '":"', "2", "5", ".00", '","', "date", '":"', "Sep", " 18", '"}', END]
    total, date = values_of("".join(pieces[:-1]))
    assert tokens_within(total, pieces, END) == [3, 4, 5] and tokens_within(date, pieces, END) == [9, 10]
    (whole,) = values_of("Sep 18")
    assert tokens_within(whole, ["", "Sep", " 18", END], END) == [1, 2], "an empty piece spells nothing"


@pytest.mark.parametrize(
    ("text", "hint", "boxes"),
    [
        ("25.00", "what is the total?", [(700, 200, 760, 220)]),  # printed twice: the question says which
        ("25.00", "subtotal", [(700, 100, 760, 120)]),
        ("25.00", "", [(700, 100, 760, 120)]),  # else the first
        ("4711-a", "number", [(50, 300, 200, 320)]),  # a part of a word, in another case
        ("Sep 18, 2026", "date", [(300, 400, 440, 422)]),
        ("Sep18,2026", "date", [(300, 400, 440, 422)]),
        ("12 Main Street", "street", [(300, 500, 390, 520), (300, 540, 380, 560)]),  # two lines
        ("2023-02-21", "due", [(600, 640, 700, 660)]),  # misread by a character
        ("1", "how many?", []),  # inside other numbers only
        ("nowhere", "", []),
        ("", "", []),
        (" ", "", []),
    ],
)
def test_find_boxes(text, hint, boxes):
    assert find_boxes(text, WORDS, hint) == boxes


def test_no_words():
    assert find_boxes("25.00", []) == [] and lines_of([]) == []


def test_labels_keep_off_words_marks_and_edges():
    size = (800, 1000)
    alone = (400, 500, 460, 520)
    assert place_labels([("total", alone)], [alone], size) == ["right"]
    beside = (470, 500, 700, 520)
    assert place_labels([("total", alone)], [alone, beside], size) == ["above"]
    corner = (930, 5, 995, 25)  # no room to the right or above
    (side,) = place_labels([("total", corner)], [corner], size)
    spot = label_spots(corner, 100, 30, (10, 8))[side]
    assert side in SIDES and spot[0] >= 0 and spot[2] <= 1000 and spot[1] >= 0
    # Two marks of the same words: their labels do not lie on each other.
    one, other = place_labels([("total", alone), ("what is the total?", alone)], [alone], size)
    assert one != other


def test_pieces_add_up_and_runs_join_them():
    from deed.data.synthetic import pages
    from deed.models.latr import small as small_latr

    tokenizer = small_latr.build_tokenizer(pages.vocabulary_words(), pages.KEYS)
    text = '{"total":"$5","date":"1 May 2020"}'
    tokens = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id, tokenizer.pad_token_id]
    pieces = text_pieces(tokenizer, tokens)
    assert len(pieces) == len(tokens) and pieces[-2:] == [END, ""]
    assert "".join(pieces[:-2]) == text == tokenizer.decode(tokens, skip_special_tokens=True)


def test_runs():
    assert depth_runs(["a", "b", "", "c", END], [1, 1, 2, 2, 2], END) == [("ab", 1), ("c", 2), (END, 2)]
    assert depth_runs(["a", " ", "b"], [1, 2, 1], END) == [("a", 1), ("·", 2), ("b", 1)], "a space alone is seen"
    assert depth_runs(["", END], [3, 1], END) == [(END, 1)] and depth_runs([], [], None) == []
