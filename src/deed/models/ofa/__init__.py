"""OFA: one encoder-decoder for text, image patches, location bins and image codes (see modeling_ofa.py)."""

from __future__ import annotations

from .candidates import Candidates, allowed_tokens, build_candidates, read_ans2label, score_candidates
from .configuration_ofa import OFAConfig
from .decoder import OFADecoder
from .encoder import OFAEncoder, OFAEncoderOutput
from .modeling_ofa import OFAForConditionalGeneration
from .names import to_original
from .processing_ofa import OFAProcessor, build_image_processor
from .tokenization_ofa import read_tokenizer, train_tokenizer


def register() -> None:
    """With the Auto classes; again is harmless."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoProcessor

    AutoConfig.register("ofa", OFAConfig, exist_ok=True)
    AutoModelForSeq2SeqLM.register(OFAConfig, OFAForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(OFAConfig, OFAProcessor, exist_ok=True)


__all__ = [
    "Candidates",
    "OFAConfig",
    "OFADecoder",
    "OFAEncoder",
    "OFAEncoderOutput",
    "OFAForConditionalGeneration",
    "OFAProcessor",
    "allowed_tokens",
    "build_candidates",
    "build_image_processor",
    "read_ans2label",
    "read_tokenizer",
    "register",
    "score_candidates",
    "to_original",
    "train_tokenizer",
]
