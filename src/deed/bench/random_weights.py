"""Models and inputs of a configuration and a seed, in the sizes that people use: times do not depend on what weights say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

FIRST_WORD = 4  # ids below are special in every shape

Inputs = dict[str, torch.Tensor]


def t5(layers: int, width: int, feed: int, heads: int, vocab: int = 32128, head_width: int = 64) -> Any:
    """A T5 of as many encoder as decoder layers, tied and ReLU as the published v1.0 checkpoints are, seed 0.

    Args:
        layers: of the encoder, and of the decoder.
        width, feed: d_model and the inner width of feed-forward layers.
        heads, vocab, head_width: attention heads, size of the vocabulary, width of a head.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(**_sizes(layers, width, feed, heads, vocab, head_width))
    return _varied_t5(T5ForConditionalGeneration, config)


def latr(layers: int, width: int, feed: int, heads: int, vocab: int = 32128, head_width: int = 64) -> Any:
    """A LaTr++ without ViT: words and boxes; seed 0.

    Args:
        layers: of the encoder, and of the decoder.
        width, feed: d_model and the inner width of feed-forward layers.
        heads, vocab, head_width: attention heads, size of the vocabulary, width of a head.
    """
    from deed.models.latr import LatrConfig, LatrForConditionalGeneration

    config = LatrConfig(**_sizes(layers, width, feed, heads, vocab, head_width), vision_config=None)
    return _varied_t5(LatrForConditionalGeneration, config)


def _sizes(layers: int, width: int, feed: int, heads: int, vocab: int, head_width: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "d_model": width,
        "d_kv": head_width,
        "d_ff": feed,
        "num_heads": heads,
        "num_layers": layers,
        "decoder_start_token_id": 0,
    }


@torch.no_grad()
def _varied_t5(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config).eval()
    # Fresh tied weights answer with the token they were given, over and over, which would hide a wrong cache. Random signs
    # on the final norm take that away; larger outputs of the layers let what stands before count.
    for name, weight in model.decoder.named_parameters():
        if name.endswith("o.weight"):
            weight.mul_(4.0)
    signs = torch.randint(0, 2, model.decoder.final_layer_norm.weight.shape)
    model.decoder.final_layer_norm.weight.copy_(2.0 * signs - 1)
    return model


@torch.no_grad()
def bart(layers: int, width: int, feed: int, heads: int, vocab: int = 50265) -> Any:
    """A BART of as many encoder as decoder layers, seed 0.

    Args:
        layers: of the encoder, and of the decoder.
        width, feed, heads, vocab: d_model, inner width of feed-forward layers, attention heads, vocabulary.
    """
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=vocab,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=feed,
        decoder_ffn_dim=feed,
        max_position_embeddings=1024,
        forced_eos_token_id=None,  # the number of tokens is forced, the last one is not
    )
    model = BartForConditionalGeneration(config).eval()
    for weight in model.model.decoder.layers.parameters():
        if weight.ndim > 1:
            weight.mul_(2.2 / (config.init_std * width**0.5))  # as for T5: so that answers vary
    return model


def random_ids(source: int) -> Callable[[Any, int, torch.Generator], Inputs]:
    """Inputs of random ids without padding."""

    def inputs(model: Any, rows: int, generator: torch.Generator) -> Inputs:
        ids = torch.randint(FIRST_WORD, model.config.vocab_size, (rows, source), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return inputs


def random_page(words: int) -> Callable[[Any, int, torch.Generator], Inputs]:
    """The same with boxes."""

    def inputs(model: Any, rows: int, generator: torch.Generator) -> Inputs:
        corner = torch.randint(0, 900, (rows, words, 2), generator=generator)
        size = torch.randint(0, 100, (rows, words, 2), generator=generator)
        return {
            **random_ids(words)(model, rows, generator),
            "bbox": torch.cat([corner, corner + size], -1),
        }

    return inputs
