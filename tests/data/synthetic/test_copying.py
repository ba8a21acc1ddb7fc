"""Pages to copy from: every answer is where its question says, and none can be guessed."""

import itertools
import random
import re

from deed.data.synthetic.copying import copying_page, unguessable


def pages(count=60, known=()):
    rng = random.Random(0)
    for _ in range(count):
        yield copying_page(rng, rng.choice((3, 8, 30, 120, 300)), known)


def test_answers_stand_where_the_questions_say_and_nowhere_else():
    kinds = set()
    for words, asked in pages():
        text = " " + " ".join(word.text for word in words) + " "
        for kind, question, answer in asked:
            kinds.add(kind)
            if question == "what does it say?":
                assert text.strip() == answer
                continue
            named = re.fullmatch(r'(?:which words? comes? (?:after|before)|what comes after) "(.+)"\?', question)[1]
            assert text.count(f" {named} ") == 1
            there = f" {answer} {named} " if kind == "word before" else f" {named} {answer} "
            assert there in text and (kind in ("label", "reading")) >= (" " in answer)
    assert kinds == {"next word", "reading", "word before", "label"}


def test_words_are_on_the_page_in_reading_order_and_do_not_overlap():
    for words, _ in pages(20):
        for word in words:
            x0, y0, x1, y1 = word.box
            assert 0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000 and word.text == word.text.strip() != ""
        for before, after in itertools.pairwise(words):
            same = before.box[1] == after.box[1]
            assert (after.box[0] >= before.box[2] or after.box[1] == 984) if same else after.box[1] > before.box[1]


def test_pages_have_as_many_words_as_wanted_and_are_of_strings_and_known_words():
    rng = random.Random(1)
    words, _ = copying_page(rng, 200, ("apple", "pear"))
    assert len(words) == 200
    share = sum(word.text.rstrip(":") in ("apple", "pear") for word in words) / 200
    assert 0.35 < share < 0.65
    assert len({unguessable(rng) for _ in range(200)}) > 150
    assert copying_page(random.Random(3), 9) == copying_page(random.Random(3), 9) != copying_page(random.Random(4), 9)
