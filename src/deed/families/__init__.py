"""One small adapter per decoder family; each drives its model's own layers."""

from . import bart, ofa, t5, whisper  # noqa: F401  (registers them)
from .base import DecoderFamily, family_of, register_family

__all__ = ["DecoderFamily", "family_of", "register_family"]
