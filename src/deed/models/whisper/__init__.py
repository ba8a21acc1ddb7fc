"""Whisper as faster-whisper users have it on disk: CTranslate2 folders, read into Transformers' class."""

from deed.utils.saved_model import is_ctranslate2_whisper

from .ctranslate2 import read_ctranslate2_whisper
from .installed import find_whisper
from .processor import ctranslate2_processor

__all__ = ["ctranslate2_processor", "find_whisper", "is_ctranslate2_whisper", "read_ctranslate2_whisper"]
