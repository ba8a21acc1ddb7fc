"""Encoders with the layers they are known to have run lean (`lean`), each layer class declared by one function."""

from . import others  # noqa: F401  (declares them)
from .layer import EncoderLayer, encoder_layer
from .lean import lean

__all__ = ["EncoderLayer", "encoder_layer", "lean"]
