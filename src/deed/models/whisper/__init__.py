"""Whisper as faster-whisper users have it on disk: CTranslate2 folders, read into Transformers' class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deed.utils.lazy import lazy_names
from deed.utils.saved_model import is_ctranslate2_whisper

if TYPE_CHECKING:
    from .ctranslate2 import read_ctranslate2_whisper as read_ctranslate2_whisper
    from .installed import find_whisper as find_whisper
    from .processor import ctranslate2_processor as ctranslate2_processor

# Where a model lies is asked before PyTorch is imported, which takes a second.
_HOMES = {
    "ctranslate2_processor": "processor",
    "find_whisper": "installed",
    "read_ctranslate2_whisper": "ctranslate2",
}
__all__ = ["ctranslate2_processor", "find_whisper", "is_ctranslate2_whisper", "read_ctranslate2_whisper"]
__getattr__, _ = lazy_names(__name__, _HOMES)
