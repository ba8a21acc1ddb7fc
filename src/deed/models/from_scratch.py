"""What the small models that are trained here from scratch have in common."""

from __future__ import annotations

from typing import Any


def t5_sizes(tokenizer: Any, d_model: int, d_ff: int, dropout: float) -> dict[str, Any]:
    """Fields of a `T5Config`, heads of width 32; decoding starts with the padding token, as in T5.

    Args:
        tokenizer: gives vocabulary size and special tokens.
        d_model: width, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        dropout: rate.
    """
    return {
        "vocab_size": len(tokenizer),
        "d_model": d_model,
        "d_kv": 32,
        "d_ff": d_ff,
        "num_heads": d_model // 32,
        "dropout_rate": dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }


def generation_config(tokenizer: Any, max_answer: int) -> Any:
    """`generate()`'s defaults: answers of at most `max_answer` tokens, end token included."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_length=max_answer + 1,  # the start token counts
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
