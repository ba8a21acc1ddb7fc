"""A tokenizer learnt from documents: a few thousand pieces, digits one by one, bytes for what has no piece.

A word's pieces do not depend on its neighbours, nor on the marks around it: "Smith," has the pieces of "Smith" and a comma,
so that an answer is spelled with the pieces that stand on the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

SENTINELS = 32  # of layout-aware denoising
SPECIAL = ("<pad>", "</s>")
BYTES = [f"<0x{i:02X}>" for i in range(256)]
# JSON's marks stay together: an answer that lists fields has them between all of its values.
# Marks and digits stand alone, with the beginning of the word that they may be.
ALONE = r"▁?\{\"|\":\"|\",\"|\"\}|▁?[^\w\s▁]|▁?\d"


def learn_tokenizer(texts: Iterable[str], size: int) -> Any:
    """A standard fast tokenizer with `size` entries, by byte-pair encoding of the texts.

    What it decodes is what was encoded, whatever the characters, but for "▁" (U+2581), which becomes a space, and one space
    at the beginning, which is lost.

    Args:
        texts: pages, questions and answers as they will be met.
        size: of the vocabulary, bytes and sentinels included.

    Raises:
        ValueError: a size too small for bytes and sentinels.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{i}>" for i in range(SENTINELS)]
    learnt = size - len(BYTES) - len(SPECIAL) - len(sentinels)
    if learnt < 1:
        raise ValueError(f"size must be above {size - learnt}, got {size}")
    before = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(ALONE), "isolated"),
        ]
    )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = before
    # Letters that are rare are left to bytes.
    trainer = trainers.BpeTrainer(vocab_size=learnt, min_frequency=3, limit_alphabet=220, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    found = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*SPECIAL, *BYTES, *found, *sentinels]))}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=sentinels,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


__all__ = ["learn_tokenizer"]
