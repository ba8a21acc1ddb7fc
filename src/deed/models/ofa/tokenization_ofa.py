"""OFA's tokenizer: GPT-2's byte-level BPE with the ids of OFA's dictionary, then image codes and location bins.

Ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, the text pieces, `<mask>`, `<code_0>` .., `<bin_0>` .. (59457 in the released
models). The original takes two steps, text to GPT-2's ids and these, as decimal strings, through a dictionary ordered by
frequency. Both are one-to-one, so one fast tokenizer whose vocabulary has the dictionary's ids does the same.

Three sources: the original's `utils/BPE` folder, the Transformers port's model folder, and texts to train a small one on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deed.utils.files import read_json

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
BOS, PAD, EOS, UNK = range(4)
MASK = "<mask>"
N_CODES, N_BINS = 8192, 1000  # of the released models
ORIGINAL_FILES = ("encoder.json", "vocab.bpe", "dict.txt")
PORT_FILES = ("vocab.json", "merges.txt")
FAST_FILE = "tokenizer.json"


def read_tokenizer(folder: str | Path, n_codes: int = N_CODES, n_bins: int = N_BINS) -> Any:
    """The tokenizer of a folder: a fast one's (`tokenizer.json`), the original's files, or the port's.

    Args:
        folder: with `tokenizer.json`, with `encoder.json`, `vocab.bpe` and `dict.txt`, or with `vocab.json` and
            `merges.txt`.
        n_codes: image codes of the model; not read from any of the files.
        n_bins: location bins of the model, likewise.

    Raises:
        ValueError: none of these files, or broken ones; names file and fix.
    """
    folder = Path(folder)
    if (folder / FAST_FILE).is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    if all((folder / name).is_file() for name in ORIGINAL_FILES):
        return read_original(folder, n_codes, n_bins)
    if all((folder / name).is_file() for name in PORT_FILES):
        return read_port(folder, n_codes, n_bins)
    wanted = " or ".join(", ".join(names) for names in ((FAST_FILE,), ORIGINAL_FILES, PORT_FILES))
    raise ValueError(f"{folder}: no tokenizer there; expected {wanted}")


def has_tokenizer(folder: str | Path) -> bool:
    """Whether `read_tokenizer` has something to read in the folder."""
    folder = Path(folder)
    return any(all((folder / n).is_file() for n in names) for names in ((FAST_FILE,), ORIGINAL_FILES, PORT_FILES))


def read_original(folder: str | Path, n_codes: int = N_CODES, n_bins: int = N_BINS) -> Any:
    """The original's `utils/BPE`: `encoder.json` (piece to GPT-2 id), `vocab.bpe` (merges), `dict.txt` (GPT-2 ids as
    decimal strings, one a line with its count, by frequency; and a few that fill up).

    Args:
        folder: with the three files.
        n_codes: image codes of the model.
        n_bins: location bins of the model.

    Raises:
        ValueError: a file is missing or broken, or the dictionary lacks a piece.
    """
    folder = Path(folder)
    encoder = _read_json(folder / ORIGINAL_FILES[0])
    names = [line.rsplit(" ", 1)[0] for line in _lines(folder / ORIGINAL_FILES[2])]
    place = {name: len(SPECIAL) + i for i, name in enumerate(names)}
    if len(place) != len(names):
        raise ValueError(f"{folder / ORIGINAL_FILES[2]}: the same entry twice; get the file again")
    lacking = [piece for piece, number in encoder.items() if str(number) not in place]
    if lacking:
        raise ValueError(
            f"{folder / ORIGINAL_FILES[2]}: no entry for {len(lacking)} of {ORIGINAL_FILES[0]}'s pieces, such as "
            f"{lacking[0]!r} ({encoder[lacking[0]]}); the two belong to different models"
        )
    vocab = {piece: place[str(number)] for piece, number in encoder.items()}
    numbers = {str(number) for number in encoder.values()}
    vocab |= {name: i for name, i in place.items() if name not in numbers}  # madeupword0000 and so on
    return build_tokenizer(vocab, _read_merges(folder / ORIGINAL_FILES[1]), n_codes, n_bins)


def read_port(folder: str | Path, n_codes: int = N_CODES, n_bins: int = N_BINS) -> Any:
    """The Transformers port's `vocab.json` and `merges.txt`, which are BART's: pieces with their final ids, without the
    codes and bins that the port's class adds.

    Args:
        folder: with the two files.
        n_codes: image codes of the model.
        n_bins: location bins of the model.

    Raises:
        ValueError: a file is missing or broken, or the special tokens are not OFA's.
    """
    folder = Path(folder)
    vocab = _read_json(folder / PORT_FILES[0])
    for i, token in enumerate(SPECIAL):
        if vocab.pop(token, None) != i:
            raise ValueError(f"{folder / PORT_FILES[0]}: {token} should have id {i}; this is not OFA's vocabulary")
    for token in [MASK, *_numbered("code", n_codes), *_numbered("bin", n_bins)]:
        vocab.pop(token, None)
    return build_tokenizer(vocab, _read_merges(folder / PORT_FILES[1]), n_codes, n_bins)


def train_tokenizer(texts: Iterable[str], vocab_size: int, n_bins: int, n_codes: int = 0) -> Any:
    """A small tokenizer of the same layout, its pieces learned from texts.

    Args:
        texts: with the space before them that the model will see (`" yes"`).
        vocab_size: all ids together; few texts may give fewer pieces, and so fewer ids.
        n_bins: location bins.
        n_codes: image codes.

    Raises:
        ValueError: no room for the 256 bytes.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pieces = vocab_size - len(SPECIAL) - 1 - n_codes - n_bins
    if pieces < 256:
        least = 256 + vocab_size - pieces
        raise ValueError(
            f"vocab_size must be at least {least} with {n_codes} codes and {n_bins} bins, got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = {piece: len(SPECIAL) + i for piece, i in model["vocab"].items()}
    return build_tokenizer(vocab, [tuple(pair) for pair in model["merges"]], n_codes, n_bins)


def build_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]], n_codes: int, n_bins: int) -> Any:
    """A `PreTrainedTokenizerFast` from text pieces with their ids; `<mask>`, codes and bins get the ids after them.

    `tokenizer(text)` gives `<s> text </s>`. Bins and codes written in a text are found there, and the spaces before them
    dropped, as the original's prompts with regions are put together; the special tokens are not found (`</s>` in a
    question is four characters).

    Args:
        vocab: text pieces and their ids.
        merges: pairs of pieces, in the order of their ranks.
        n_codes: image codes.
        n_bins: location bins.

    Raises:
        ValueError: the ids are not `4 .. 4 + len(vocab) - 1`, or a merge has a piece that is not there.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if sorted(vocab.values()) != list(range(len(SPECIAL), len(SPECIAL) + len(vocab))):
        raise ValueError(f"the ids of the text pieces must be {len(SPECIAL)} and up, without a gap")
    for left, right in merges:
        if not {left, right, left + right} <= vocab.keys():
            raise ValueError(f"the merge {left!r} {right!r} has pieces that are not in the vocabulary")
    added = [*_numbered("code", n_codes), *_numbered("bin", n_bins)]
    last = [MASK, *added]
    start = len(SPECIAL) + len(vocab)
    everything = {token: i for i, token in enumerate(SPECIAL)} | vocab
    everything |= {token: start + i for i, token in enumerate(last)}
    tokenizer = Tokenizer(models.BPE(everything, merges, unk_token=SPECIAL[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokenizer.add_tokens([AddedToken(token, lstrip=True, normalized=False, special=False) for token in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[BOS],
        pad_token=SPECIAL[PAD],
        eos_token=SPECIAL[EOS],
        unk_token=SPECIAL[UNK],
        mask_token=MASK,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def count_tokens(tokenizer: Any, kind: str) -> tuple[int, int]:
    """Id of `<kind_0>` and how many there are; `(0, 0)` where there are none. `kind` is `"bin"` or `"code"`."""
    vocab = tokenizer.get_vocab()
    first = vocab.get(f"<{kind}_0>")
    if first is None:
        return 0, 0
    count = next(i for i in range(1, len(vocab) + 1) if vocab.get(f"<{kind}_{i}>") != first + i)
    return first, count


def _numbered(kind: str, count: int) -> Iterator[str]:
    return (f"<{kind}_{i}>" for i in range(count))


def _read_json(path: Path) -> dict[str, int]:
    value: dict[str, int] = read_json(path, ValueError)
    if not all(isinstance(i, int) for i in value.values()):
        raise ValueError(f"{path}: expected an object of pieces and their ids")
    return value


def _read_merges(path: Path) -> list[tuple[str, str]]:
    pairs = [tuple(line.split(" ")) for line in _lines(path) if not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{path}: expected two pieces a line")
    return pairs  # type: ignore[return-value]


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines(): pieces may hold characters that it takes for line ends.
        return [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


__all__ = [
    "build_tokenizer",
    "count_tokens",
    "has_tokenizer",
    "read_original",
    "read_port",
    "read_tokenizer",
    "train_tokenizer",
]
