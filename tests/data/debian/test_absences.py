"""What a run of a page does not answer: every one of these questions is one that its text has no answer to."""

import itertools
import random
import re

from deed.data.base import UNANSWERABLE
from deed.data.debian.absences import KIND, absences
from deed.data.debian.pages import DebianPage


def page(lines, number=0, size=10.0):
    """A page of lines of text; `lines` is `[(text, top)]`, or with a size of their own `[(text, top, size)]`."""
    words, sizes, numbers = [], [], []
    for i, (text, top, *own) in enumerate(lines):
        for j, word in enumerate(text.split()):
            words.append([word, 50 + 60 * j, top, 100 + 60 * j, top + 12])
            sizes.append(own[0] if own else size)
            numbers.append(i)
    return DebianPage("p", "p.pdf", number, 9, words, sizes, numbers)


MIDDLE = [(f"word{i} stands here with some others of line {chr(97 + i)}", 200 + 20 * i) for i in range(8)]


def asked(made, count=99):
    found = []
    for seed in range(60):
        found += absences(made, random.Random(seed), count)
    assert {a.kind for a in found} <= {KIND} and {a.answer for a in found} <= {UNANSWERABLE}
    return {a.question for a in found}


def test_a_run_from_the_middle_has_no_title_author_or_page_number():
    found = asked(page(MIDDLE))
    assert {"what is the page number?", "what is the title?", "who is the author?"} <= found
    assert "what is the page number?" not in asked(page([*MIDDLE, ("7", 940)])), "something stands at the edge"
    top = [("The Manual", 60, 30.0), *MIDDLE]
    assert "what is the title?" not in asked(page(top, number=1)) | asked(page(top)), "type as large as a title's"
    assert "who is the author?" not in asked(page([*MIDDLE, ("written by Ada", 500)]))


def test_pairs_names_and_labels_asked_for_are_not_there():
    lines = [
        *MIDDLE,
        ("3.1 Warm Water", 400),
        ("Contact: us, and see Warm Water", 420),
        ("1.4 Cold Milk ..... 9", 440),
    ]
    made = page(lines)
    text = " ".join(word[0] for word in made.words)
    pairs = set(itertools.pairwise(text.split()))
    kinds = set()
    for question in asked(made):
        named = re.search(r'"(.+)"', question)
        if question.startswith("which word"):
            assert tuple(named[1].split()) not in pairs and set(named[1].split()) <= set(text.split())
        elif "number of the section" in question:
            assert named[1].lower() not in ("warm water", "cold milk", "milk"), question
        elif question.startswith("what comes after"):
            assert named[1] not in text and named[1] != "Contact:"
        elif "heading" in question:
            assert not re.search(rf"(?<![\d.]){question.split()[-1][:-1]}\b", text)
        kinds.add(question.split(" ")[0] + question.split('"')[0][-8:])
    assert len(kinds) >= 4


def test_as_many_as_wanted_and_by_seed():
    made = page(MIDDLE)
    assert len(absences(made, random.Random(0), 2)) == 2 and absences(made, random.Random(0), 0) == []
    assert absences(made, random.Random(5), 3) == absences(made, random.Random(5), 3)
    assert absences(page([("one", 300)]), random.Random(0), 9), "a run of one word"
