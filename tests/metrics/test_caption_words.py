"""Captions cut into words. What is expected here is what Stanford's PTBTokenizer 3.4.1 (-lowerCase) gave for these
sentences, less the punctuation that the official COCO evaluation drops."""

import pytest

from deed.metrics.caption_words import words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man is riding a wave on a surfboard .", "a man is riding a wave on a surfboard"),
        ("A man's dog doesn't like the children's toys.", "a man 's dog does n't like the children 's toys"),
        (
            "He can't, won't, I'm, you're, they've, she'll, we'd, cannot, gonna, wanna, gotta, lemme.",
            "he ca n't wo n't i 'm you 're they 've she 'll we 'd can not gon na wan na got ta lem me",
        ),
        ("Dogs' bowls; the boys' bikes.", "dogs bowls the boys bikes"),
        (
            "Two black-and-white cats, sitting on a sofa (red); one sleeps...",
            "two black-and-white cats sitting on a sofa -lrb- red -rrb- one sleeps",
        ),
        ("the man [in hat] {blue}", "the man -lsb- in hat -rsb- -lcb- blue -rcb-"),
        (
            "The sign says \"STOP\" and 'go' at 5:30 p.m. in the U.S.A.",
            "the sign says stop and go at 5:30 p.m. in the u.s.a.",
        ),
        ("Mr. Smith and Dr. Jones at St. Mary's.", "mr. smith and dr. jones at st. mary 's"),
        ("a no. 5 bus; No. A", "a no. 5 bus no a"),
        (
            "A $5.00 bill & 1,000 people at 50% off - really -- yes!",
            "a $ 5.00 bill & 1,000 people at 50 % off really yes",
        ),
        (
            "A 1/2 eaten and/or whole pizza/pie on a 12-inch plate.",
            "a 1/2 eaten and/or whole pizza/pie on a 12-inch plate",
        ),
        ("three-year-old boy's ice-cream. a t-shirt", "three-year-old boy 's ice-cream a t-shirt"),
        ("rock 'n' roll in the '90s and 1990s", "rock 'n' roll in the '90s and 1990s"),
        ("It is 3 o'clock. isn't it", "it is 3 o'clock is n't it"),
        ("4x4 2nd 3pm 10am #1 sign @ home", "4x4 2nd 3pm 10am # 1 sign @ home"),
        ("the end.he said,then left.And so", "the end.he said then left.and so"),
        ("half- eaten -sandwich re-use", "half eaten sandwich re-use"),
        ('"Hello," said the sign?! What?? Yes!!', "hello said the sign ?! what ?? yes !!"),
        (
            "don’t use curly quotes “like this” or café – dash — em… ",
            "do n't use curly quotes like this or café dash em",
        ),
        ("A cat . . . sleeping.. on a bed ....", "a cat sleeping on a bed"),
        ("", ""),
        (" \n .", ""),
    ],
)
def test_words(caption, expected):
    assert words(caption) == expected.split()


def test_words_stay_words():
    assert words("x" * 100_000 + "-" * 1000) == ["x" * 100_000]  # no slow backtracking
    assert words("the cat\tsat\non the mat") == ["the", "cat", "sat", "on", "the", "mat"]
    assert words("canny wannabe n't") == ["canny", "wannabe", "n't"]
