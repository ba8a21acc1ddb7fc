"""LaTr++: T5 that reads a page as OCR words, their boxes, and image patches (see modeling_latr.py for what is ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deed.utils.lazy import lazy_names

if TYPE_CHECKING:
    from .configuration_latr import LatrConfig as LatrConfig
    from .encoder import LatrEncoder as LatrEncoder
    from .encoder import LatrEncoderOutput as LatrEncoderOutput
    from .modeling_latr import LatrForConditionalGeneration as LatrForConditionalGeneration
    from .processing_latr import LatrProcessor as LatrProcessor

_HOMES = {
    "LatrConfig": "configuration_latr",
    "LatrEncoder": "encoder",
    "LatrEncoderOutput": "encoder",
    "LatrForConditionalGeneration": "modeling_latr",
    "LatrProcessor": "processing_latr",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
