"""OFA: one encoder-decoder for text, image patches, location bins and image codes (see modeling_ofa.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deed.utils.lazy import lazy_names

if TYPE_CHECKING:
    from .candidates import Candidates as Candidates
    from .candidates import allowed_tokens as allowed_tokens
    from .candidates import build_candidates as build_candidates
    from .candidates import read_ans2label as read_ans2label
    from .candidates import score_candidates as score_candidates
    from .configuration_ofa import OFAConfig as OFAConfig
    from .decoder import OFADecoder as OFADecoder
    from .encoder import OFAEncoder as OFAEncoder
    from .encoder import OFAEncoderOutput as OFAEncoderOutput
    from .evaluation_ofa import original_settings as original_settings
    from .modeling_ofa import OFAForConditionalGeneration as OFAForConditionalGeneration
    from .names import to_original as to_original
    from .processing_ofa import OFAProcessor as OFAProcessor
    from .processing_ofa import build_image_processor as build_image_processor
    from .tokenization_ofa import read_tokenizer as read_tokenizer
    from .tokenization_ofa import train_tokenizer as train_tokenizer

_HOMES = {
    "Candidates": "candidates",
    "OFAConfig": "configuration_ofa",
    "OFADecoder": "decoder",
    "OFAEncoder": "encoder",
    "OFAEncoderOutput": "encoder",
    "OFAForConditionalGeneration": "modeling_ofa",
    "OFAProcessor": "processing_ofa",
    "allowed_tokens": "candidates",
    "build_candidates": "candidates",
    "build_image_processor": "processing_ofa",
    "original_settings": "evaluation_ofa",
    "read_ans2label": "candidates",
    "read_tokenizer": "tokenization_ofa",
    "score_candidates": "candidates",
    "to_original": "names",
    "train_tokenizer": "tokenization_ofa",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
