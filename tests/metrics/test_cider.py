"""CIDEr-D against values worked out by hand, and against the definition written out for one n-gram length."""

import math

import pytest

from deed.metrics.cider import cider_d, cider_d_each, document_frequencies

LN2 = math.log(2)
TWO = [["a cat"], ["a dog"]]  # idf: a 0, the rest ln 2


def gauss(difference):
    return math.exp(-(difference**2) / 72)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        # Of n = 1: (0, ln2) and itself, cosine 1; of n = 2: 1; there are no longer ones.
        ("a cat", (1 + 1) / 4),
        ("A cat.", (1 + 1) / 4),  # case and punctuation do not count
        # One bigram less: n = 1: cosine 1.
        ("cat", 1 / 4 * gauss(1)),
        # Words that every picture has weigh nothing.
        ("a", 0),
        ("a dog", 0),
        ("", 0),
        # n = 1: weights cat ln2, red ln2 (in no reference: as rare as can be); cosine 1/sqrt 2. n = 2: no common one.
        ("a red cat", 1 / math.sqrt(2) / 4 * gauss(1)),
        # Said twice, clipped to once: min(2 ln2, ln2) ln2 / (2 ln2 * ln2) = 1/2; unclipped it would be 1.
        ("cat cat", 1 / 2 / 4 * gauss(0)),
        # n = 1: 1/2; n = 2: "a cat" twice, "cat a" once, clipped: 1/sqrt(4 + 1).
        ("a cat a cat", (1 / 2 + 1 / math.sqrt(5)) / 4 * gauss(2)),
    ],
)
def test_by_hand(prediction, expected):
    first, second = cider_d_each([prediction, "a dog"], TWO)
    assert first == pytest.approx(10 * expected, abs=1e-12)
    assert second == pytest.approx(5)
    assert cider_d([prediction, "a dog"], TWO) == pytest.approx(5 * expected + 2.5)


def test_the_best_there_is_is_ten():
    captions = ["one big red kite in the sky", "two dogs on some green grass"]
    assert cider_d_each(captions, [[text] for text in captions]) == pytest.approx([10, 10])


def test_the_mean_over_references():
    # three pictures; "cat" is said of one, "dog" of two: idf ln 3 and ln 1.5
    references = [["cat", "dog"], ["dog"], ["bird"]]
    scores = cider_d_each(["cat dog", "cat", "fox"], references)
    a, b = math.log(3), math.log(1.5)
    norm = math.sqrt(a**2 + b**2)
    # one bigram more than either reference; n = 1 only, over two references
    assert scores[0] == pytest.approx(10 / 4 * gauss(1) * (a / norm + b / norm) / 2)
    assert scores[1:] == [0, 0]


def test_document_frequencies_of_the_corpus():
    frequencies = document_frequencies([["a cat", "the cat"], ["a dog"], ["a bird", "one bird"]])
    assert frequencies.images == 3
    assert {" ".join(ngram): count for ngram, count in frequencies.counts.items()} == (
        {"a": 3, "cat": 1, "the": 1, "dog": 1, "bird": 1, "one": 1}
        | {"a cat": 1, "the cat": 1, "a dog": 1, "a bird": 1, "one bird": 1}
    )


def test_a_part_is_scored_by_the_corpus():
    references = [["a cat on a mat", "the cat"], ["a dog"], ["a bird on a tree", "one bird"], ["a red kite"]]
    predictions = ["a cat on a tree", "the dog", "a red bird", "a kite"]
    frequencies = document_frequencies(references)
    whole = cider_d_each(predictions, references)
    assert whole == cider_d_each(predictions, references, frequencies)
    for i in range(4):  # one by one, as calibration and serving do
        assert cider_d_each([predictions[i]], [references[i]], frequencies) == [whole[i]]
    assert cider_d_each(predictions[:2], references[:2]) != whole[:2]


def test_long_captions_by_the_definition():
    """All n, several references, repeated words: the formula of the paper, written out anew with lists."""
    references = [
        ["a red apple left of the dog and a key", "the red apple and the dog , a key on the right"],
        ["a dog left of a small red key", "a dog and the key"],
        ["two apples in the middle", "two red apples and the dog"],
    ]
    predictions = [
        "a red apple left of the dog the dog",
        "a dog left of a key",
        "two red apples in the middle and a dog",
    ]

    def grams(text, n):
        tokens = text.replace(",", "").split()
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    def weight(gram, n, text):
        df = sum(any(gram in grams(ref, n) for ref in refs) for refs in references)
        return grams(text, n).count(gram) * (math.log(3) - math.log(max(1, df)))

    def one(said, ref):
        total = 0.0
        for n in range(1, 5):
            s = {g: weight(g, n, said) for g in grams(said, n)}
            r = {g: weight(g, n, ref) for g in grams(ref, n)}
            norm = math.hypot(*s.values()) * math.hypot(*r.values())
            total += sum(min(s[g], r.get(g, 0)) * r.get(g, 0) for g in s) / norm if norm else 0
        return 10 * total / 4 * gauss(len(grams(said, 2)) - len(grams(ref, 2)))

    expected = [
        sum(one(said, ref) for ref in refs) / len(refs) for said, refs in zip(predictions, references, strict=True)
    ]
    assert cider_d_each(predictions, references) == pytest.approx(expected, rel=1e-12)
    assert min(expected) > 1


def test_what_is_refused():
    with pytest.raises(ValueError, match="as many references as predictions, got 2 and 1"):
        cider_d(["a"], TWO)
    with pytest.raises(ValueError, match="as many references as predictions, got 0 and 0"):
        cider_d([], [])
    with pytest.raises(ValueError, match="prediction 1: references must be a list of one or more"):
        cider_d(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="prediction 0: references must be a list of one or more"):
        cider_d(["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match="references of two pictures or more, got 1; give frequencies="):
        cider_d(["a cat"], [["a cat"]])
