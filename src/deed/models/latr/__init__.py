"""LaTr++: T5 that reads a page as OCR words, their boxes, and image patches (see modeling_latr.py for what is ours)."""

from __future__ import annotations

from .configuration_latr import LatrConfig
from .modeling_latr import LatrEncoder, LatrEncoderOutput, LatrForConditionalGeneration
from .processing_latr import LatrProcessor


def register() -> None:
    """With the Auto classes; again is harmless."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoProcessor

    AutoConfig.register("latr", LatrConfig, exist_ok=True)
    AutoModelForSeq2SeqLM.register(LatrConfig, LatrForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(LatrConfig, LatrProcessor, exist_ok=True)


__all__ = [
    "LatrConfig",
    "LatrEncoder",
    "LatrEncoderOutput",
    "LatrForConditionalGeneration",
    "LatrProcessor",
    "register",
]
