"""Word error rates, by hand."""

import pytest

from deed.metrics.speech import normalized, word_accuracy_each, word_error_rate


def test_texts_are_compared_without_their_looks():
    assert normalized("It's TWENTY-five dollars, Mr. Brown!", "en") == normalized("it is $25 mister brown", "en")
    assert normalized("Número  3, ¡por favor!", "es") == normalized("número 3 por favor", "es")
    assert normalized("активировано.", "ru") == "активировано"


def test_word_accuracy():
    answers = ["red green blue", "un dos", "a b c d e f", "", "word"]
    references = ["Red green grey!", "Un dos.", "x", "...", "..."]
    found = word_accuracy_each(answers, references, ["en", "es", "fr", "fr", "fr"])
    assert found == [pytest.approx(2 / 3), 1.0, 0.0, 1.0, 0.0]


def test_word_error_rate_counts_words_of_all():
    # 1 of 3 wrong, none of 2, 1 of 1 left out, 1 added to 2; a reference without words does not count
    answers = ["a b x", "c d", "", "e f g", "noise"]
    references = ["a b c", "c d", "e", "e f", "..."]
    assert word_error_rate(answers, references, ["fr"] * 5) == pytest.approx(3 / 8)


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="as many references"):
        word_error_rate(["a"], [], ["en"])
    with pytest.raises(ValueError, match="as many references"):
        word_accuracy_each([], [], [])
    with pytest.raises(ValueError, match="has words"):
        word_error_rate(["a"], ["!"], ["fr"])
