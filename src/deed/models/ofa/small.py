"""An OFA small enough to be trained on a CPU: its tokenizer, processor and fresh weights.

The shape is OFA's with the released checkpoints' norms. Two switches of the original are set the other way, since the
stem is too shallow to tell a patch where it is: positions are added to what encoder and decoder read, too, and not only
to the attention scores. The patches' start as sines as large as what the stem sees: small random ones drown in it, and
boxes are not learned in a thousand steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from . import OFAConfig, OFAForConditionalGeneration, OFAProcessor, build_image_processor, train_tokenizer
from .positions import grid_ids
from .prompts import CAPTION, refer, vqa

PICTURE = 128  # pixels of the model's pictures, each side: 8 x 8 patches
N_BINS = PICTURE // 2 + 1  # one for every second border between pixels: half as many to learn, and 1 px off at most
NEAR = 2  # bins: an edge so far off is as good
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
    freeze_resnet: bool = False,
) -> OFAForConditionalGeneration:
    """Fresh weights; heads of width 32.

    Args:
        tokenizer: of `build_tokenizer`.
        encoder_layers: of the encoder.
        decoder_layers: of the decoder.
        d_model: width, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        stem: channels of the first convolution and of the three stages of basic blocks.
        stem_depths: blocks per stage.
        dropout: rate.
        freeze_resnet: batch norms as they are loaded, for a stem that was trained before.
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
        freeze_resnet=freeze_resnet,
        init_std=0.05,  # 0.02 is for widths of many hundreds
        token_bucket_size=32,
        image_bucket_size=PICTURE // 16,
        code_image_size=PICTURE // 2,
        orig_patch_image_size=PICTURE,
        entangle_position_embedding=True,
        disable_entangle=False,
    )
    model = OFAForConditionalGeneration(config)
    start_as_sines(model, tokenizer)
    model.generation_config = generation_config(tokenizer)
    return model


def confidence(tokenizer: Any) -> dict[str, Any]:
    """`DeedConfig.confidence`: a word as `max_prob` has it, a coordinate to within `NEAR` bins."""
    first = tokenizer.convert_tokens_to_ids("<bin_0>")
    return {"name": "ordered_prob", "first": first, "count": N_BINS, "within": NEAR}


def start_as_sines(model: Any, tokenizer: Any) -> None:
    """Give the patches' positions and the bins' embeddings the sines and cosines of their places."""
    side, bucket = PICTURE // 16, model.config.image_bucket_size
    table = model.get_encoder().embed_image_positions.weight
    bins = tokenizer.convert_tokens_to_ids([f"<bin_{i}>" for i in range(N_BINS)])
    embeddings = model.get_input_embeddings().weight
    at = waves(side, table.shape[1] // 2)
    x, y = at[None].expand(side, -1, -1), at[:, None].expand(-1, side, -1)
    with torch.no_grad():
        table[grid_ids(side, side, bucket, table.device)] = torch.cat([x, y], dim=-1).flatten(0, 1).to(table)
        embeddings[bins] = waves(N_BINS, embeddings.shape[1]).to(embeddings) * embeddings.std()


def waves(count: int, width: int) -> torch.Tensor:
    """`[count, width]`: places on a line as sines and cosines, from half a wave over all of it to one over two places."""
    at = (torch.arange(count) + 0.5) / count
    angles = torch.pi * at[:, None] * torch.logspace(0, math.log2(count), width // 2, base=2.0)
    return torch.cat([angles.sin(), angles.cos(), torch.zeros(count, width % 2)], dim=1)


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
