"""Metrics against cases worked out by hand; beside each, what a plausible mistake would give."""

import hashlib
import json

import pytest

from deed.metrics import text as metrics
from deed.metrics import vqa_normalize as vqa_normalize
from deed.metrics.text import (
    anls,
    anls_each,
    exact_match,
    exact_match_each,
    field_f1,
    field_f1_each,
    vqa_accuracy,
    vqa_accuracy_each,
)
from deed.metrics.vqa_normalize import normalize_answer, normalize_punctuation

ALL = [anls, anls_each, exact_match, exact_match_each, field_f1, field_f1_each, vqa_accuracy, vqa_accuracy_each]


@pytest.mark.parametrize("metric", ALL)
def test_predictions_and_references_must_pair_up(metric):
    for predictions, references in (([], []), (["a"], []), (["a"], [["a", "a"], ["a", "a"]])):
        with pytest.raises(ValueError, match="as many references as predictions"):
            metric(predictions, references)
    with pytest.raises(ValueError, match="prediction 0: references must be a list of one or more"):
        metric(["a"], [[]])  # a test split: there is nothing to score against


@pytest.mark.parametrize("metric", [anls, exact_match, vqa_accuracy])
def test_a_string_is_not_a_list_of_answers(metric):
    with pytest.raises(ValueError, match="must be a list of one or more answers, got 'abc'"):
        metric(["a"], ["abc"])  # its letters are not answers


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("hello", ["hello"], 1),
        (" Hello ", ["hELLO"], 1),  # not 5/7, nor 0 by case
        ("ab", ["ac"], 0.5),  # 0.5 itself counts
        ("abc", ["abxyz"], 0),  # 1 - 3/5 = 0.4 is below
        ("abcd", ["abcdef"], 1 - 2 / 6),  # over the longer: not 1 - 2/4 = 0.5 of the prediction, nor 2/10 of both
        ("abcdef", ["abcd"], 1 - 2 / 6),  # not 0.5 over the reference
        ("abdc", ["abcd"], 0.5),  # two edits: swapping neighbours is not one (0.75)
        ("abxd", ["abcd"], 0.75),  # replacing is one edit, not two (0.5)
        ("ab", ["zz", "ab", "ac"], 1),  # the nearest, not the first or the mean
        ("", [""], 1),  # equal; not a division by zero
        ("  ", ["", "a"], 1),
        ("12\nMarch", ["12 March"], 1),  # not 7/8: runs of white space are joined
        ("12 \t March", ["12 march"], 1),
        ("abc  d", ["abc x"], 1 - 1 / 6),  # but they count in the length: not 1 - 1/5
        ("a", [""], 0),
        ("", ["a"], 0),
        ("a b", ["ab"], 1 - 1 / 3),  # inner white space counts
        ("né", ["ne"], 0.5),  # characters, not bytes (1 - 2/3 = 0.33)
    ],
)
def test_anls(prediction, references, expected):
    assert anls_each([prediction], [references]) == [pytest.approx(expected)]


def test_anls_is_the_mean_after_the_threshold():
    predictions, references = ["ab", "abc", "x"], [["ac"], ["abxyz"], ["x"]]
    assert anls(predictions, references) == pytest.approx((0.5 + 0 + 1) / 3)  # not (0.5 + 0.4 + 1) / 3


def test_anls_is_the_challenges_script():
    """The distance of joined lower-case texts over the length of the raw upper-case ones, on texts of all sorts."""

    def script(prediction, answers):
        values = []
        for answer in answers:
            one, other = " ".join(answer.strip().lower().split()), " ".join(prediction.strip().lower().split())
            length = max(len(answer.upper()), len(prediction.upper()))
            values.append(distance(one, other) / length if length else 0.0)
        return 1 - min(values) if 1 - min(values) >= 0.5 else 0

    def distance(one, other):
        row = list(range(len(one) + 1))
        for i, letter in enumerate(other, 1):
            row, before = [i], row
            for j, own in enumerate(one):
                row.append(before[j] if own == letter else 1 + min(before[j], before[j + 1], row[-1]))
        return row[-1]

    texts = [
        "",
        " ",
        "a",
        "A b",
        "a  b",
        "a\nb ",
        "stra\u00dfe",
        "STRASSE",
        "12 March",
        "12\nMarch",
        "March 12",
        "12 Marsh",
    ]
    for prediction in texts:
        for reference in texts:
            answers = [reference, "12 March 1999"]
            assert anls_each([prediction], [answers]) == [pytest.approx(script(prediction, answers))]


def test_ofas_vqa_score():
    confidences = [{"no": 0.6, "yes": 0.3}, {"2": 1.0}, {"2": 1.0}]
    assert metrics.ofa_vqa_score_each(["yes", "2", "two"], confidences) == [0.3, 1.0, 0.0]
    assert metrics.ofa_vqa_score(["yes", "2", "two"], confidences) == pytest.approx(1.3 / 3)
    with pytest.raises(ValueError, match="as many confidences as predictions, got 3 and 1"):
        metrics.ofa_vqa_score(["yes"], confidences)


def test_exact_match():
    predictions, references = ["Blue ", "a cat", "no", ""], [["blue"], ["cat"], ["yes", " NO"], [""]]
    assert exact_match_each(predictions, references) == [1, 0, 1, 1]  # articles and all else count
    assert exact_match(predictions, references) == 0.75


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_of_ten(agreeing, expected):
    # not min(1, agreeing / 3): 0.33, 0.67, 1
    references = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
    assert vqa_accuracy(["cat"], [references]) == pytest.approx(expected)


@pytest.mark.parametrize("total", range(2, 13))
def test_vqa_accuracy_leaves_one_out(total):
    for agreeing in range(total + 1):
        gold = ["cat"] * agreeing + ["dog"] * (total - agreeing)
        by_hand = [min(1, (gold[:i] + gold[i + 1 :]).count("cat") / 3) for i in range(total)]
        assert vqa_accuracy(["cat"], [gold]) == pytest.approx(sum(by_hand) / total)


def test_vqa_accuracy_of_few_annotators():
    assert vqa_accuracy(["cat"], [["cat"] * 3]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="two answers or more"):
        vqa_accuracy(["cat"], [["cat"]])  # nobody to agree with: always 0


@pytest.mark.parametrize(
    ("prediction", "gold", "official", "full"),
    [
        # punctuation of the references goes only where they differ
        ("on off", ["on/off"] * 10, 0, 1),
        ("on off", ["on/off"] * 9 + ["x"], 1, 1),
        ("on/off", ["on/off"] * 10, 0, 1),  # the prediction is normalized all the same
        # case, articles, number words and contractions of the references stay
        ("Yes", ["Yes"] * 9 + ["no"], 0, 1),
        ("two", ["two"] * 9 + ["3"], 0, 1),
        ("two", ["2"] * 9 + ["3"], 1, 1),
        ("the cat", ["the cat"] * 9 + ["x"], 0, 1),
        ("the cat", ["cat"] * 9 + ["x"], 1, 1),
        ("dont", ["don't"] * 9 + ["x"], 1, 1),
        ("don't", ["dont"] * 9 + ["x"], 0, 1),
    ],
)
def test_vqa_accuracy_normalizes_references_as_told(prediction, gold, official, full):
    assert vqa_accuracy([prediction], [gold]) == official
    assert vqa_accuracy([prediction], [gold], normalize_gold="full") == full


def test_vqa_accuracy_counts_after_normalizing():
    gold = ["on/off", "on off", "x", "x", "x", "x", "x", "x", "x", "x"]
    assert vqa_accuracy_each(["on,off", "x"], [gold, gold]) == [pytest.approx(0.6), 1]
    assert vqa_accuracy(["on,off", "x"], [gold, gold]) == pytest.approx(0.8)
    with pytest.raises(ValueError, match='normalize_gold must be "official" or "full", got \'none\''):
        vqa_accuracy(["x"], [gold], normalize_gold="none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on/off", "on off"),
        ("on / off", "on  off"),  # next to a space it goes and leaves the spaces
        ("on /off a/b", "on off ab"),  # … wherever else it is, too
        ("1,000", "1000"),
        ("1,000-ton", "1000ton"),  # a comma in a number makes all marks go
        ("a,b-c", "a b c"),
        ("what?", "what "),
        ("3.", "3"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("v.2", "v.2"),  # before a digit a period stays, whatever is before it
        ("it's 5:30", "it's 5:30"),  # apostrophe and colon are no punctuation here
        ("{x}!", " x  "),
        ("." * 40, "." * 8),  # at most 32 periods go
    ],
)
def test_punctuation(text, expected):
    assert normalize_punctuation(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The Cat\tAnd\na dog ", "cat and dog"),
        ("None", "0"),
        ("Zero one ten eleven", "0 1 10 eleven"),
        ("A-4", "4"),  # the mark becomes a space, then the article goes
        ("an apple", "apple"),
        ("wont", "won't"),
        ("Im", "im"),  # in the original's table as "Im", which no lower-case word equals
        ("hadnt've hadn'tve hadntve", "hadn't've hadn't've hadntve"),
        ("somebody'd", "somebodyd"),  # the original's own slip
        ("lets were ill shell", "lets were ill shell"),
        ("twas", "'twas"),
        ("the", ""),
    ],
)
def test_words(text, expected):
    assert normalize_answer(text) == expected


def test_the_contractions_are_the_official_ones():
    """114 of the 120 entries of `vqaEval.py`: four start with a capital and never match, two change nothing."""
    listed = " ".join(f"{short}>{long}" for short, long in sorted(vqa_normalize.CONTRACTIONS.items()))
    assert len(vqa_normalize.CONTRACTIONS) == 114
    assert hashlib.sha256(listed.encode()).hexdigest() == (
        "e87fe30f0cd5e12f064b094bc48ce73e84a384642a8b1b1f442b4254950c012a"
    )


def test_field_f1_counts_over_all_predictions():
    predictions = ['{"total": " 12.50", "date": "1 May"}', '{"total": "3"}', "total: 3"]
    references = ['{"total": "12.50 ", "date": "2 May", "name": "A"}', {"total": "3"}, ['{"total": "3"}']]
    # 1 of 2 found and 3 wanted; 1 of 1 and 1; nothing of 0 and 1
    assert field_f1_each(predictions, references) == [pytest.approx(2 / 5), 1, 0]
    assert field_f1(predictions, references) == pytest.approx(2 * 2 / (3 + 5))  # not the mean, 7/15


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ('{"a": "X "}', {"a": "x"}, 1),
        ('{"A": "x"}', {"a": "x"}, 0),  # keys as they are
        ('{"b": "x"}', {"a": "x"}, 0),  # a value under another key is not found
        # repeated keys are a field each: neither the last only (1 or 0) nor each value once
        ('{"a": "x", "a": "y"}', {"a": "y"}, 2 / 3),
        ('{"a": "y", "a": "x"}', {"a": "y"}, 2 / 3),
        ('{"a": "x", "a": "x"}', {"a": "x"}, 2 / 3),
        ('{"a": "x"}', '{"a": "x", "a": "x"}', 2 / 3),
        ('{"a": "y", "a": "x"}', '{"a": "x", "a": "y"}', 1),
        # nested values as JSON
        ('{"a": {"k": 1, "l": [2, "B "]}}', {"a": {"l": [2, "b"], "k": 1}}, 1),
        ('{"a": [1, 2]}', {"a": [2, 1]}, 0),
        ('{"a": {"k": 1, "k": 2}}', {"a": {"k": 2}}, 0),
        ('{"a": {"k": [["l", 1]]}}', {"a": {"k": {"l": 1}}}, 0),  # pairs are not an object
        ('{"a": "[1, 2]"}', {"a": [1, 2]}, 0),
        ('{"a": 1.0}', {"a": 1}, 1),
        ('{"a": 1}', {"a": "1"}, 0),
        ('{"a": true}', {"a": 1}, 0),  # equal in Python
        ('{"a": null}', {"a": "null"}, 0),
        ('{"a": null}', {}, 0),
        ("{}", {}, 1),
        ("{}", {"a": "x"}, 0),
        # not an object
        ("[]", {}, 0),
        ('[["a", "x"]]', {"a": "x"}, 0),
        ('"a"', {"a": "x"}, 0),
        ('{"a": "x"', {"a": "x"}, 0),
        ("", {"a": "x"}, 0),
        ("[" * 100_000, {"a": "x"}, 0),
        ('{"a": ' * 100_000, {"a": "x"}, 0),
        ('{"a": ' + "9" * 5000 + "}", {"a": "x"}, 0),
        # of several references the nearest
        ('{"a": "x"}', [{"a": "y", "b": "z"}, '{"a": "x"}', {}], 1),
    ],
)
def test_field_f1(prediction, reference, expected):
    assert field_f1_each([prediction], [reference]) == [pytest.approx(expected)]


def test_what_is_not_an_object_takes_no_precision():
    wanted = {"a": "x"}
    good, bad = json.dumps(wanted), '["a", "b", "c"]'
    assert field_f1([good, bad], [wanted, wanted]) == pytest.approx(2 * 1 / (1 + 2))


def test_references_of_field_f1_must_be_objects():
    with pytest.raises(ValueError, match=r"references of field_f1 are JSON objects, got '\[1\]'"):
        field_f1(["{}"], ["[1]"])


def test_the_older_metrics_are_as_they_were():
    assert metrics.accuracy(["a", "b"], [["a"], ["c", "B"]]) == 0.5
    assert metrics.correct(["a"], [["b", "a"]]) == [True]
