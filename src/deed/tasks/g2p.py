"""Grapheme to phoneme on CMUdict: spell a word, get its pronunciation ("tomato" -> "T AH M EY T OW").

The data are the 126,000 words of Carnegie Mellon's pronouncing dictionary as the wheel of `pocketsphinx` carries them
(BSD; stress marks removed by its makers). The split is by a hash of the word, so it is the same everywhere.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.metrics.text import accuracy, phoneme_error_rate
from deed.models.from_scratch import generation_config, t5_sizes

LETTERS = "abcdefghijklmnopqrstuvwxyz'-."
PHONEMES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
MAX_ANSWER = 32  # tokens, end token included
# Upper ends of the hash buckets (of 1000): 93 % train, 0.5 % validation, 3.5 % calibration, 3 % test.
SPLITS = {"train": 930, "validation": 935, "calibration": 970, "test": 1000}


def cmudict_path() -> Path:
    """The dictionary inside the installed `pocketsphinx` wheel.

    Raises:
        DataError: the package is not installed.
    """
    spec = importlib.util.find_spec("pocketsphinx")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            'CMUdict comes with pocketsphinx, which is not installed: pip install "deed-transformers[g2p]"'
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model" / "en-us" / "cmudict-en-us.dict"


def read_cmudict(path: str | Path | None = None) -> dict[str, list[str]]:
    """Words to their listed pronunciations, in the file's order.

    Args:
        path: a file of lines `word P1 P2 …`, further pronunciations as `word(2) …`. None: the packaged dictionary.

    Raises:
        DataError: no such file, or a line with an unknown phoneme; names file and line.
    """
    source = Path(path) if path is not None else cmudict_path()
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    known = set(PHONEMES)
    words: dict[str, list[str]] = {}
    with source.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            word, *phonemes = line.split() or [""]
            if not word:
                continue
            word = re.sub(r"\(\d+\)$", "", word)
            strange = [p for p in phonemes if p not in known]
            if strange or not phonemes:
                raise DataError(f"{source}, line {number}: {word!r} has {strange or 'no'} phonemes")
            if set(word) <= set(LETTERS) and len(phonemes) < MAX_ANSWER:
                words.setdefault(word, []).append(" ".join(phonemes))
    return words


def split_of(word: str) -> str:
    """`"train"`, `"validation"`, `"calibration"` or `"test"`: fixed by the word's SHA-256."""
    bucket = int(hashlib.sha256(word.encode()).hexdigest(), 16) % 1000
    return next(name for name, end in SPLITS.items() if bucket < end)


def load_split(name: str, path: str | Path | None = None) -> list[tuple[str, list[str]]]:
    """`(word, pronunciations)` of one split, in the dictionary's order."""
    if name not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
    return [(word, answers) for word, answers in read_cmudict(path).items() if split_of(word) == name]


def build_tokenizer() -> Any:
    """A standard fast tokenizer: a letter is a token, a phoneme (capitals) is a token, `</s>` closes."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *LETTERS, *PHONEMES])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[A-Z]+|[^A-Z]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def build_model(tokenizer: Any, n_layers: int = 8, d_model: int = 128, d_ff: int = 512, dropout: float = 0.1) -> Any:
    """A T5 with as many encoder as decoder layers, fresh weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        **t5_sizes(tokenizer, d_model, d_ff, dropout),
        num_layers=n_layers,
        num_decoder_layers=n_layers,
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config = generation_config(tokenizer, MAX_ANSWER)
    return model


def encode_pairs(rows: list[tuple[str, list[str]]], tokenizer: Any) -> list[dict[str, list[int]]]:
    """Training examples `{"input_ids", "labels"}`, one per listed pronunciation."""
    words = [word for word, answers in rows for _ in answers]
    targets = [answer for _, answers in rows for answer in answers]
    inputs = tokenizer(words).input_ids
    labels = tokenizer(targets).input_ids
    return [{"input_ids": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def clean_word(text: str) -> str:
    """A user's word as the model knows words.

    Raises:
        DataError: empty, too long, or with characters the dictionary does not use.
    """
    word = text.strip().lower()
    strange = sorted(set(word) - set(LETTERS))
    if not word or strange or len(word) > 40:
        why = "is empty" if not word else f"has {strange}" if strange else "is longer than 40 letters"
        raise DataError(f"{text!r} {why}; a word here is 1 to 40 of {LETTERS}")
    return word


def score(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Word accuracy against any listed pronunciation, and phoneme error rate against the nearest."""
    return {
        "word_accuracy": accuracy(predictions, references),
        "phoneme_error_rate": phoneme_error_rate(predictions, references),
    }


def score_ids(ids: Any, references: list[list[str]], tokenizer: Any) -> dict[str, float]:
    """`score` of generated ids `[rows, length]` as Trainer gathers them: padded with -100, and with the first rows
    repeated at the end where several processes filled up their last batch."""
    ids = ids[: len(references)].copy()
    ids[ids < 0] = tokenizer.pad_token_id
    return score(tokenizer.batch_decode(ids, skip_special_tokens=True), references)
