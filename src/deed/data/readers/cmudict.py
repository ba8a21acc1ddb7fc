"""CMUdict: words and their pronunciations ("tomato" -> "T AH M EY T OW").

The data are the 126,000 words of Carnegie Mellon's pronouncing dictionary as the wheel of `pocketsphinx` carries them
(BSD; stress marks removed by its makers). The split is by a hash of the word, so it is the same everywhere.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from deed.errors import DataError
from deed.models.small_g2p import LETTERS, MAX_ANSWER, PHONEMES

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
    """`(word, pronunciations)` of one split, in the dictionary's order.

    Raises:
        DataError: no such split; see also `read_cmudict`.
    """
    if name not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
    return [(word, answers) for word, answers in read_cmudict(path).items() if split_of(word) == name]


def clean_word(text: str) -> str:
    """A user's word as the dictionary has words.

    Raises:
        DataError: empty, too long, or with characters the dictionary does not use.
    """
    word = text.strip().lower()
    strange = sorted(set(word) - set(LETTERS))
    if not word or strange or len(word) > 40:
        why = "is empty" if not word else f"has {strange}" if strange else "is longer than 40 letters"
        raise DataError(f"{text!r} {why}; a word here is 1 to 40 of {LETTERS}")
    return word
