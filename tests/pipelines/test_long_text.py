"""Cutting texts: nothing is lost, nothing is too long, sentences stay whole where they fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deed.pipelines.long_text import cut, longest_input

TEXT = "Dr. Smith went home at 5 p.m. on Monday. He slept. Then he woke up, made coffee and read the paper!"


def count(text):
    return len(text.split())


def test_a_text_that_fits_is_left_alone():
    assert cut(" a  b ", 5, count) == [" a  b "]


def test_sentences_stay_whole_where_they_fit():
    pieces = cut(TEXT, 11, count)
    assert pieces[0].endswith("He slept.")
    assert [count(p) <= 11 for p in pieces] == [True] * len(pieces)
    assert " ".join(pieces).split() == TEXT.split()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab. ,é", min_size=1, max_size=12), max_size=20), st.integers(1, 9))
def test_nothing_is_lost_and_no_piece_is_too_long(words, room):
    def letters(text):  # a token per letter: words themselves may be too long
        return len(text.replace(" ", ""))

    text = " ".join(words)
    pieces = cut(text, room, letters)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert letters(text) <= room or all(letters(piece) <= room for piece in pieces)


def test_no_room_is_an_error():
    with pytest.raises(ValueError, match="no room"):
        cut("a b", 0, count)


def test_the_shortest_limit_counts():
    from types import SimpleNamespace as N

    config = N(get_text_config=lambda encoder: N(max_position_embeddings=64, max_source_positions=None))
    assert longest_input(N(config=config), N(model_max_length=int(1e30))) == 64
    assert longest_input(N(config=config), N(model_max_length=40)) == 40
    empty = N(get_text_config=lambda encoder: N())
    assert longest_input(N(config=empty), N(model_max_length=int(1e30))) is None
