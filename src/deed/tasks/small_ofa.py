"""An OFA small enough to be trained on a CPU: its tokenizer, processor and fresh weights.

The shape is OFA's with the released checkpoints' norms. Two switches of the original are set the other way, since the
stem is too shallow to tell a patch where it is: positions are added to what encoder and decoder read, too, and not only
to the attention scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..models.ofa import OFAConfig, OFAForConditionalGeneration, OFAProcessor, build_image_processor, train_tokenizer
from ..models.ofa.prompts import CAPTION, refer, vqa

PICTURE = 128  # pixels of the model's pictures, each side: 8 x 8 patches
N_BINS = PICTURE + 1  # one for each border between two pixels, so that boxes in whole pixels stay as they are
MAX_POSITIONS = 128
MAX_ANSWER = 40  # tokens, end token included


def build_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> Any:
    """Byte-level BPE of OFA's layout, its pieces learned from texts and the prompts' own words."""
    prompts = [CAPTION, refer(""), vqa("what")]
    return train_tokenizer([*prompts, *(f" {text.strip()}" for text in texts)], vocab_size, N_BINS)


def build_processor(tokenizer: Any) -> OFAProcessor:
    """For pictures of `PICTURE` pixels, scaled to -1..1."""
    return OFAProcessor(build_image_processor(PICTURE), tokenizer, max_target_length=MAX_ANSWER - 1)


def build_model(
    tokenizer: Any,
    encoder_layers: int = 3,
    decoder_layers: int = 8,
    d_model: int = 160,
    d_ff: int = 480,
    stem: tuple[int, int, int, int] = (24, 32, 64, 128),
    stem_depths: tuple[int, int, int] = (1, 1, 1),
    dropout: float = 0.0,
) -> OFAForConditionalGeneration:
    """Fresh weights; heads of width 32.

    Args:
        stem: channels of the first convolution and of the three stages of basic blocks.
        stem_depths: blocks per stage.
    """
    config = OFAConfig(
        vocab_size=len(tokenizer),
        d_model=d_model,
        max_position_embeddings=MAX_POSITIONS,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_ffn_dim=d_ff,
        decoder_ffn_dim=d_ff,
        encoder_attention_heads=d_model // 32,
        decoder_attention_heads=d_model // 32,
        stem_widths=list(stem),
        stem_depths=list(stem_depths),
        stem_layer_type="basic",
        dropout=dropout,
        init_std=0.05,  # 0.02 is for widths of many hundreds
        token_bucket_size=32,
        image_bucket_size=PICTURE // 16,
        code_image_size=PICTURE // 2,
        orig_patch_image_size=PICTURE,
        entangle_position_embedding=True,
        disable_entangle=False,
    )
    model = OFAForConditionalGeneration(config)
    model.generation_config = generation_config(tokenizer)
    return model


def generation_config(tokenizer: Any) -> Any:
    """`generate()`'s defaults: greedy, answers of at most `MAX_ANSWER` tokens."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_length=MAX_ANSWER + 1,  # the start token counts
        decoder_start_token_id=tokenizer.bos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
