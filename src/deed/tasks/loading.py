"""A saved folder to a model and its tokenizer or processor, whatever the task; all that can be wrong is one kind of error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deed.errors import DeedLoadError
from deed.modeling.loading import from_pretrained
from deed.models.whisper import ctranslate2_processor, is_ctranslate2_whisper, read_ctranslate2_whisper
from deed.utils.saved_model import read_saved_model

from .protocol import Loaded, tokenizer_of


def load_saved(folder: Path, plain: bool = False, exits: str | os.PathLike[str] | None = None) -> Loaded:
    """The model and the processor of a folder; of one that holds no processor, the tokenizer.

    Args:
        folder: written by `deed train`, `deed convert`, or `save_pretrained` of a model and of its processor; or a Whisper
            that CTranslate2 converted.
        plain: a model without early exit is welcome too.
        exits: as `deed.from_pretrained` has it.

    Raises:
        DeedLoadError: not such a folder, or a damaged one.
    """
    saved = read_saved_model(folder)
    try:
        if plain and not saved.has_exits:
            model: Any = _plain(Path(folder), saved.model_type)
        else:
            model = from_pretrained(folder, exits=exits)
    except DeedLoadError:
        raise
    except Exception as error:  # damaged configurations make libraries raise all sorts
        raise DeedLoadError(f"the model in {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    return Loaded(model, load_processor(folder))


def _plain(folder: Path, model_type: str) -> Any:
    """A model without early exit, in evaluation mode."""
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq

    if is_ctranslate2_whisper(folder):
        return read_ctranslate2_whisper(folder)
    auto = AutoModelForSpeechSeq2Seq if model_type == "whisper" else AutoModelForSeq2SeqLM
    return auto.from_pretrained(folder).eval()


def load_processor(folder: Path) -> Any:
    """The processor of a saved model; where there is none, its tokenizer.

    Raises:
        DeedLoadError: it has none, or a damaged one, or one without end or padding token.
    """
    from transformers import AutoProcessor, AutoTokenizer

    if is_ctranslate2_whisper(Path(folder)):
        return ctranslate2_processor(Path(folder))
    if Path(folder).is_dir() and not any(Path(folder).glob("*.json")):
        raise DeedLoadError(f"{folder} has no config.json; give the folder that model.save_pretrained wrote")
    has_processor = any((Path(folder) / f"{kind}processor_config.json").is_file() for kind in ("", "pre"))
    what, auto = ("processor", AutoProcessor) if has_processor else ("tokenizer", AutoTokenizer)
    try:
        processor = auto.from_pretrained(folder)
    except Exception as error:  # damaged tokenizers make libraries raise all sorts
        raise DeedLoadError(f"the {what} in {folder} cannot be loaded: {type(error).__name__}: {error}") from None
    tokenizer = tokenizer_of(processor)
    if getattr(tokenizer, "eos_token_id", None) is None or tokenizer.pad_token_id is None:
        raise DeedLoadError(
            f"the tokenizer in {folder} has no end or padding token; tokenizer_config.json is missing or damaged"
        )
    return processor
