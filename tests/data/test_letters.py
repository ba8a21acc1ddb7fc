"""Answers with letters that a tokenizer lacks are counted and told of once."""

import warnings

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from deed.data.letters import unwritten, warn_of_unwritten
from deed.errors import UnknownLetters


@pytest.fixture(scope="module")
def tokenizer():
    """Unigram pieces as T5 has them: no é, no ½."""
    pieces = [("<unk>", 0.0), ("▁", -3.0), *((letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789")]
    model = Tokenizer(models.Unigram(pieces, unk_id=0))
    model.normalizer = normalizers.Replace(" ", "▁")
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")


def test_letters_are_counted_by_answer(tokenizer):
    found = unwritten(tokenizer, ["cafe", "café", "é and é", "½ cafés", "12 cups", ""])
    assert (found.answers, found.total) == (3, 6)
    assert found.letters == {"é": 3, "½": 1} and list(found.letters) == ["é", "½"]
    for answer in ("café", "½ cafés"):
        assert tokenizer.unk_token_id in tokenizer(answer).input_ids


def test_one_warning_with_count_and_letters(tokenizer):
    with pytest.warns(UnknownLetters) as caught:
        found = warn_of_unwritten(tokenizer, (text for text in ["café", "tea", "½ é"]), "training answers")
    assert found.answers == 2 and len(caught) == 1
    assert str(caught[0].message) == (
        "2 of 3 training answers hold letters that the tokenizer cannot write, so that labels have <unk> in their place, "
        "which no answer can equal: 'é' (2), '½' (1)"
    )
    with pytest.warns(UnknownLetters, match=r"'Ā' \(1\).* and 15 more$"):
        warn_of_unwritten(tokenizer, ["".join(map(chr, range(0x100, 0x119)))])


def test_no_warning_where_everything_can_be_written(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_of_unwritten(tokenizer, ["tea", "two\tcups\n"]).answers == 0
        assert warn_of_unwritten(tokenizer, []).total == 0
        no_unknown = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
        assert no_unknown.unk_token_id is None and warn_of_unwritten(no_unknown, ["é"]) == (0, 1, {})
