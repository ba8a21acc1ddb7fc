"""The processor of a Whisper that CTranslate2 converted, whose folder has a `tokenizer.json` and at most a
`preprocessor_config.json` (large-v3 has one, for its 128 mel bins)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deed.errors import DeedLoadError

if TYPE_CHECKING:
    from transformers import WhisperProcessor

MOST_MELS = 51_866  # tokens of the models that read 128 mel bins instead of 80


def ctranslate2_processor(folder: Path) -> WhisperProcessor:
    """Features and tokens as OpenAI's own processors of this size have them.

    Args:
        folder: as `ct2-transformers-converter` writes it.

    Raises:
        DeedLoadError: no `tokenizer.json`, or a damaged one.
    """
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise DeedLoadError(f"{folder} has no tokenizer.json; copy that of the original Whisper there")
    try:
        tokenizer = WhisperTokenizer.from_pretrained(folder)
        if (folder / "preprocessor_config.json").is_file():
            extractor = WhisperFeatureExtractor.from_pretrained(folder)
        else:
            extractor = WhisperFeatureExtractor(feature_size=128 if len(tokenizer) >= MOST_MELS else 80)
    except Exception as error:  # damaged tokenizers make libraries raise all sorts
        raise DeedLoadError(f"the tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return WhisperProcessor(extractor, tokenizer)
