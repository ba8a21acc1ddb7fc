"""Kinds of tokens, who leaves, what products decoding takes."""

import numpy as np
import pytest
from transformers import BertTokenizerFast

import deed
from conftest import plain_model
from deed.calibration.exit_statistics import ExitStatistics
from deed.models import small_g2p
from deed.recipes.tune_eval import Found, changed, choose, costs_of, leaving, share_of_products, summary
from deed.recipes.tune_report import by_kind, kind_of, kinds_of


@pytest.mark.parametrize(
    ("piece", "special", "starts", "kind"),
    [
        (" word", False, True, "word starts"),
        ("ing", False, False, "inside words"),
        (" 12", False, True, "digits"),
        (",", False, False, "punctuation"),
        (" -", False, True, "punctuation"),
        ("<|en|>", True, False, "special"),
        ("", False, False, "special"),
        ("é", False, False, "inside words"),
    ],
)
def test_kinds(piece, special, starts, kind):
    assert kind_of(piece, special, starts) == kind


def test_kinds_of_a_word_piece_tokenizer(tmp_path):
    words = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "red", "##dish", "7", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    found = kinds_of(tokenizer, [5, 6, 7, 8, 1], [True, False, False, False, False])
    assert found == ["word starts", "inside words", "digits", "punctuation", "special"]


def test_the_first_token_begins_a_word_whatever_its_spaces():
    tokenizer = small_g2p.build_tokenizer()
    c, a, end = tokenizer.convert_tokens_to_ids(["c", "a", "</s>"])
    assert kinds_of(tokenizer, [c, a, end], [True, False, False]) == ["word starts", "inside words", "special"]


@pytest.fixture
def found():
    """Five tokens of two examples, exits after 1 and 2 of 4 layers."""
    confidence = np.array([[0.9, 0.2, 0.8, 0.1, 0.95], [0.5, 0.9, 0.1, 0.3, 0.9]])
    agrees = np.array([[True, False, False, False, True], [True, True, True, False, True]])
    statistics = ExitStatistics(confidence, agrees, np.array([3, 2]), [1, 2, 4])
    return Found(statistics, np.arange(5), np.array([True, True, True, False, True]))


def test_who_leaves_where_and_what_changes(found):
    thresholds = [0.85, 0.7]
    assert leaving(found.statistics, thresholds).tolist() == [0, 1, 2, 2, 0]
    assert changed(found, thresholds).tolist() == [False, False, False, True, False], (
        "the last layer has drifted there"
    )
    assert changed(found, [0.75, 2.0]).tolist() == [False, False, True, True, False]
    assert found.drift == pytest.approx(0.2) and found.agreement() == {"1": 0.4, "2": 0.8, "4": 0.8}
    table = by_kind(found.statistics, ["word starts", "digits", "digits", "special", "special"], [0.75, 0.7])
    assert table["digits"]["leave"] == 1 and table["digits"]["right_of_those"] == 0.5
    assert table["special"] == {"tokens": 2, "leave": 0.5, "right_of_those": 1, "agreement": {"1": 0.5, "2": 0.5}}


def test_products_and_depth(found):
    model = deed.get_deed_model(plain_model("bart", dec=4), deed.DeedConfig(adapter="layer", exit_layers=[1, 2]))
    layer = sum(m.weight.numel() for m in model.deed_family.layers(model)[-1].modules() if hasattr(m, "in_features"))
    head = 32 * 40 / layer
    # At 1: one layer, its own, one head. At 2: two, two own, two heads. At the last: four, two own, three heads.
    expected = 2 * (2 + head) + (4 + 2 * head) + 2 * (6 + 3 * head)
    assert share_of_products(found, [0.85, 0.7], model) == pytest.approx(expected / 5 / (4 + head))
    expected = 2 * (2 + head) + 3 * (5 + 2 * head)  # the second exit is not asked
    assert share_of_products(found, [0.85, 2.0], model) == pytest.approx(expected / 5 / (4 + head))
    rows = choose(model, found, found, [0.2, 1.0])
    assert [row["budget"] for row in rows] == [0.2, 1.0]
    assert rows[0]["changed"] <= rows[1]["changed"] and rows[0]["depth"] >= rows[1]["depth"]
    assert rows[0]["thresholds"] == choose(model, found, found, [0.0])[0]["thresholds"], "drift is all of the budget"
    told = summary(found, costs_of(model))
    assert told["depth"].keys() == {"0.01", "0.02", "0.05"} and 0 < told["score"] <= 1.01
