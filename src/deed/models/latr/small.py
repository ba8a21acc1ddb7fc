"""A LaTr++ small enough to be trained on a CPU: its tokenizer, processor and fresh weights.

The tokenizer knows whole words only for what documents repeat (labels, questions, JSON); values are spelled character by
character, so that reading a value off the page is copying, whatever the value is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..from_scratch import generation_config, t5_sizes
from . import LatrConfig, LatrForConditionalGeneration, LatrProcessor

CHARACTERS = [chr(c) for c in range(33, 127)] + list("€£")
JSON_PIECES = ['{"', '":"', '","', '"}']
SENTINELS = 32  # of layout-aware denoising
MAX_ANSWER = 96  # tokens, end token included
PICTURE = 64  # pixels of the ViT's input, each side


def build_tokenizer(words: Iterable[str], keys: Iterable[str] = ()) -> Any:
    """A standard fast tokenizer: `words` are a piece each where they stand alone, all else is characters.

    Args:
        words: whole words, as printed.
        keys: words that are a piece also inside JSON, without a space before them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    sentinels = [f"<extra_id_{i}>" for i in range(SENTINELS)]
    pieces = [*special, "▁", *CHARACTERS, *JSON_PIECES, *keys, *(f"▁{word}" for word in words), *sentinels]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    # No merges: a pre-token that is not in the vocabulary as a whole falls to its characters.
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", ignore_merges=True))
    json_pieces = r"\{\"|\":\"|\",\"|\"\}"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(rf"{json_pieces}|[^\w▁]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def build_processor(tokenizer: Any, max_length: int = 512, question: str = "early") -> LatrProcessor:
    """For pictures of `PICTURE` pixels, scaled to -1..1.

    Args:
        tokenizer: the model's.
        max_length: see `LatrProcessor`.
        question: see `LatrConfig`.
    """
    from transformers import ViTImageProcessorPil

    half = [0.5, 0.5, 0.5]
    pictures = ViTImageProcessorPil(size={"height": PICTURE, "width": PICTURE}, image_mean=half, image_std=half)
    return LatrProcessor(pictures, tokenizer, max_length=max_length, question=question)


def build_model(
    tokenizer: Any,
    encoder_layers: int = 3,
    decoder_layers: int = 8,
    d_model: int = 128,
    d_ff: int = 512,
    vision_layers: int = 3,
    patch: int = 8,
    dropout: float = 0.0,
    d_vision: int | None = None,
    **config: Any,
) -> LatrForConditionalGeneration:
    """Fresh weights; heads of width 32.

    Args:
        tokenizer: of `build_tokenizer`.
        encoder_layers: of the text encoder.
        decoder_layers: of the decoder.
        d_model: width of text, a multiple of 32.
        d_ff: inner width of the feed-forward parts.
        vision_layers: of the ViT.
        patch: side of the ViT's patches in pixels.
        dropout: rate.
        d_vision: width of the ViT, a multiple of 32; None: that of the text, its inner width, too.
        config: further fields of `LatrConfig`.
    """
    width = d_vision or d_model
    sizes = LatrConfig(
        **t5_sizes(tokenizer, d_model, d_ff, dropout),
        num_layers=encoder_layers,
        num_decoder_layers=decoder_layers,
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": width // 32,
            "intermediate_size": d_ff if d_vision is None else 4 * d_vision,
            "image_size": PICTURE,
            "patch_size": patch,
        },
        **config,
    )
    model = LatrForConditionalGeneration(sizes)
    look_beside(model)
    model.generation_config = generation_config(tokenizer, MAX_ANSWER)
    return model


@torch.no_grad()
def look_beside(model: LatrForConditionalGeneration, lean: float = 3.0) -> None:
    """Let one head of each encoder layer start out looking at the token before, another at the one after.

    Copying a spelled value takes such heads; from T5's near-zero relative biases they take thousands of steps to form.
    """
    block: Any = model.encoder.block[0]
    bias = block.layer[0].SelfAttention.relative_attention_bias.weight  # [buckets, heads]
    half = bias.shape[0] // 2
    bias[1, 0] += lean  # one to the left
    if bias.shape[1] > 1:
        bias[half + 1, 1] += lean  # one to the right
