"""CMUdict: reader, split, tokenizer, scores."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from deed.data.readers import cmudict
from deed.errors import DataError
from deed.models import small_g2p
from deed.tasks import g2p


def test_reader_on_the_real_dictionary():
    words = cmudict.read_cmudict()
    assert len(words) > 125_000
    assert words["tomato"] == ["T AH M EY T OW", "T AH M AA T OW"]
    assert not any("(" in w for w in words)


def test_the_split_is_fixed_and_disjoint():
    assert [cmudict.split_of(w) for w in ("tomato", "cat", "zebra", "deed")] == ["test", "train", "train", "train"]
    splits = {name: {w for w, _ in cmudict.load_split(name)} for name in cmudict.SPLITS}
    sizes = {name: len(words) for name, words in splits.items()}
    assert sum(sizes.values()) == len(set().union(*splits.values())) == len(cmudict.read_cmudict())
    assert sizes == {"train": 117399, "validation": 641, "calibration": 4300, "test": 3712}
    with pytest.raises(DataError, match="split must be one of"):
        cmudict.load_split("dev")


@pytest.mark.parametrize(
    ("text", "message"),
    [("cat K AE T\nbad K QQ\n", r"line 2: 'bad' has \['QQ'\]"), ("cat K AE T\n\nempty\n", "line 3: 'empty' has no")],
)
def test_broken_lines_are_named(tmp_path, text, message):
    path = tmp_path / "d.dict"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        cmudict.read_cmudict(path)
    with pytest.raises(DataError, match="no such file"):
        cmudict.read_cmudict(tmp_path / "none")


def test_tokenizer_is_a_standard_one(tmp_path):
    tokenizer = small_g2p.build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for t in (tokenizer, loaded):
        assert t.convert_ids_to_tokens(t("o'hara").input_ids) == ["o", "'", "h", "a", "r", "a", "</s>"]
        ids = t("T AH M EY T OW").input_ids
        assert t.convert_ids_to_tokens(ids) == ["T", "AH", "M", "EY", "T", "OW", "</s>"]
        assert t.decode(ids, skip_special_tokens=True) == "T AH M EY T OW"
        assert t("ç").input_ids[0] == t.unk_token_id
    # every word and answer is spelled without <unk>
    rows = cmudict.load_split("validation")
    assert not any(tokenizer.unk_token_id in x["input_ids"] + x["labels"] for x in g2p.encode_pairs(rows, tokenizer))


def test_scores_by_hand():
    references = [["K AE T"], ["T AH M EY T OW", "T AH M AA T OW"], ["D AO G", "D AA G"]]
    predictions = ["K AE T", "T AH M AA T OW", "D AA K"]
    assert g2p.score(predictions, references) == {
        "word_accuracy": pytest.approx(2 / 3),
        "phoneme_error_rate": pytest.approx(1 / 12),
    }
    assert g2p.score([""], [["K AE T"]]) == {"word_accuracy": 0.0, "phoneme_error_rate": 1.0}
    with pytest.raises(ValueError, match="as many references"):
        g2p.score(["a"], [])


def test_scores_of_gathered_ids():
    tokenizer = small_g2p.build_tokenizer()
    rows = [tokenizer(x).input_ids for x in ("K AE T", "D AO G")]
    ids = np.array([[0, *row, -100, -100] for row in [*rows, *rows]])
    before = ids.copy()
    assert g2p.score_ids(ids, [["K AE T"], ["D AA G"]], tokenizer)["word_accuracy"] == 0.5
    assert (ids == before).all()


def test_words_of_a_user():
    assert cmudict.clean_word("  Tomato ") == "tomato"
    for text, message in (("", "is empty"), ("naïve", "has"), ("a" * 41, "longer"), ("two words", r"has \[' '\]")):
        with pytest.raises(DataError, match=message):
            cmudict.clean_word(text)
