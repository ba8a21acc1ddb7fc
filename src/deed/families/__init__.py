"""One small adapter per decoder family; each drives its model's own layers."""

from . import bart_like, composite, ofa, seamless, speech, t5, t5gemma  # noqa: F401  (registers them)
from .base import DecoderFamily, family_of, register_family, registered

__all__ = ["DecoderFamily", "family_of", "register_family", "registered"]
