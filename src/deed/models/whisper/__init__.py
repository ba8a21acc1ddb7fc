"""Whisper as faster-whisper users have it on disk: CTranslate2 folders, read into Transformers' class."""

from .ctranslate2 import is_ctranslate2_whisper, read_ctranslate2_whisper

__all__ = ["is_ctranslate2_whisper", "read_ctranslate2_whisper"]
