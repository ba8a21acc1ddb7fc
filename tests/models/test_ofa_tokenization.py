"""OFA's tokenizer: one fast tokenizer does what the original does in two steps, from each kind of folder."""

import json

import pytest
from ofa_files import TEXTS, small_tokenizer, write_bpe
from transformers import AutoTokenizer

from deed.models.ofa.tokenization_ofa import count_tokens, has_tokenizer, read_tokenizer, train_tokenizer

HARD = [
    *TEXTS,
    " isn't it 12345.6?  two  spaces\n and a\ttab ",
    " café – naïve 日本語 😀",
    " a\u2028line\u00a0end",
    " </s> <s> <mask> <unk> <pad>",  # letters, as in the original
    "",
    " ",
]


@pytest.fixture
def bpe(tmp_path):
    return tmp_path, write_bpe(tmp_path)


def test_the_originals_files(bpe):
    folder, encode = bpe
    tokenizer = read_tokenizer(folder, n_codes=30, n_bins=10)
    for text in HARD:
        assert tokenizer(text).input_ids == [0, *encode(text), 2], text
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    ids = tokenizer.convert_tokens_to_ids(
        ["<s>", "<pad>", "</s>", "<unk>", "madeupword0069", "<mask>", "<code_0>", "<bin_0>"]
    )
    assert ids == [0, 1, 2, 3, 403, 404, 405, 435] and len(tokenizer) == 445
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert count_tokens(tokenizer, "code") == (405, 30) and count_tokens(tokenizer, "bin") == (435, 10)


def test_bins_in_a_text_are_found_without_spaces(bpe):
    folder, encode = bpe
    tokenizer = read_tokenizer(folder, n_codes=30, n_bins=10)
    ids = tokenizer(" the region: <bin_3> <bin_9><code_29>").input_ids
    assert ids == [0, *encode(" the region:"), 438, 444, 434, 2]
    assert tokenizer.decode(ids[1:-1]) == " the region:<bin_3><bin_9><code_29>"


def test_the_ports_files_give_the_same(bpe, tmp_path):
    folder, _ = bpe
    first = read_tokenizer(folder, n_codes=30, n_bins=10)
    port = tmp_path / "port"
    port.mkdir()
    # As BART's vocabulary: without the codes and bins, which the port's class adds.
    vocab = {token: i for token, i in first.get_vocab().items() if i < 405}
    (port / "vocab.json").write_text(json.dumps(vocab))
    (port / "merges.txt").write_text((folder / "vocab.bpe").read_text(encoding="utf-8"), encoding="utf-8")
    second = read_tokenizer(port, n_codes=30, n_bins=10)
    assert second.get_vocab() == first.get_vocab()
    assert all(second(text).input_ids == first(text).input_ids for text in HARD)
    (port / "vocab.json").write_text(json.dumps({**vocab, "<pad>": 3, "<unk>": 1}))
    with pytest.raises(ValueError, match="<pad> should have id 1"):
        read_tokenizer(port)


def test_saves_and_loads(bpe, tmp_path):
    folder, _ = bpe
    tokenizer = read_tokenizer(folder, n_codes=30, n_bins=10)
    tokenizer.save_pretrained(tmp_path / "saved")
    for again in (read_tokenizer(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert len(again) == len(tokenizer)
        assert all(again(text).input_ids == tokenizer(text).input_ids for text in [*HARD, "<bin_3> <code_1>"])


def test_a_small_one_is_trained_with_the_same_layout():
    tokenizer = small_tokenizer(n_bins=20, n_codes=5)
    size = len(tokenizer)
    assert size <= 430 and count_tokens(tokenizer, "bin") == (size - 20, 20)
    assert count_tokens(tokenizer, "code") == (size - 25, 5) and tokenizer.mask_token_id == size - 26
    for text in HARD:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer(" apple").input_ids == [0, tokenizer.convert_tokens_to_ids("Ġapple"), 2], "learned whole"
    assert count_tokens(train_tokenizer(TEXTS, 300, 0), "bin") == (0, 0)
    with pytest.raises(ValueError, match="at least 281 with 0 codes and 20 bins, got 280"):
        train_tokenizer(TEXTS, 280, 20)


def test_bad_folders(bpe, tmp_path):
    folder, _ = bpe
    assert has_tokenizer(folder) and not has_tokenizer(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no tokenizer there; expected tokenizer\.json or encoder\.json, vocab\.bpe"):
        read_tokenizer(tmp_path / "none")
    lines = (folder / "dict.txt").read_text().splitlines()
    for name, content, message in [
        ("dict.txt", "\n".join(lines[1:]), "no entry for 1 of encoder.json's pieces"),
        ("dict.txt", "\n".join([*lines, lines[0]]), "same entry twice"),
        ("vocab.bpe", "#version: 0.2\na b c\n", "expected two pieces a line"),
        ("vocab.bpe", "#version: 0.2\nqq zz\n", "the merge 'qq' 'zz' has pieces that are not in the vocabulary"),
        ("encoder.json", "{", "cannot be read as JSON"),
        ("encoder.json", "[1]", "expected a JSON object, got list"),
        ("encoder.json", '{"a": "b"}', "expected an object of pieces and their ids"),
    ]:
        before = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            read_tokenizer(folder)
        (folder / name).write_text(before, encoding="utf-8")
    read_tokenizer(folder)
