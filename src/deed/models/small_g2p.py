"""A small T5 that spells out words: its vocabulary of letters and phonemes, its tokenizer, fresh weights."""

from __future__ import annotations

from typing import Any

from .from_scratch import generation_config, t5_sizes

LETTERS = "abcdefghijklmnopqrstuvwxyz'-."
PHONEMES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
MAX_ANSWER = 32  # tokens, end token included


def build_tokenizer() -> Any:
    """A standard fast tokenizer: a letter is a token, a phoneme (capitals) is a token, `</s>` closes."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *LETTERS, *PHONEMES])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[A-Z]+|[^A-Z]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def build_model(tokenizer: Any, n_layers: int = 8, d_model: int = 128, d_ff: int = 512, dropout: float = 0.1) -> Any:
    """A T5 with as many encoder as decoder layers, fresh weights.

    Args:
        tokenizer: of `build_tokenizer`.
        n_layers: of the encoder, and of the decoder.
        d_model: width, a multiple of 32 (the width of a head).
        d_ff: width of the feed-forward layers.
        dropout: rate, in training.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        **t5_sizes(tokenizer, d_model, d_ff, dropout),
        num_layers=n_layers,
        num_decoder_layers=n_layers,
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config = generation_config(tokenizer, MAX_ANSWER)
    return model
