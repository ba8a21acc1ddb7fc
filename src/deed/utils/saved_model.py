"""What a saved folder holds, told from its `config.json` alone: the one place that reads it for this. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from deed.errors import DeedLoadError

from .files import read_json


class SavedModel(NamedTuple):
    """A saved model, not loaded.

    Attributes:
        folder: where it lies.
        model_type: `"t5"`, `"latr"`, `"ofa"` … as Transformers names it; `"whisper"` of one that CTranslate2 converted; empty
            where the configuration does not say.
        has_exits: whether it was saved with early exit.
    """

    folder: Path
    model_type: str
    has_exits: bool


def read_saved_model(folder: Path | str) -> SavedModel:
    """Look into a folder written by `save_pretrained`. A name that is no folder is refused, not looked up on the Hub.

    Raises:
        DeedLoadError: no such folder, no `config.json` in it, or one that is not a JSON object.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DeedLoadError(f"{folder} is not a folder with a saved model")
    path = folder / "config.json"
    if not path.is_file():
        raise DeedLoadError(f"{folder} is not a folder with a saved model: it has no config.json")
    config = read_json(path, DeedLoadError, object)
    if not isinstance(config, dict):
        raise DeedLoadError(f"{path} must be a JSON object, got {type(config).__name__}")
    kind = config.get("model_type") or ("whisper" if is_ctranslate2_whisper(folder) else None)
    return SavedModel(folder, kind if isinstance(kind, str) else "", "deed_config" in config)


def is_ctranslate2_whisper(folder: Path) -> bool:
    """Whether a folder looks like a Whisper of CTranslate2's: the first bytes of `model.bin` say so."""
    try:
        with (folder / "model.bin").open("rb") as file:
            return b"WhisperSpec" in file.read(32)
    except OSError:
        return False
