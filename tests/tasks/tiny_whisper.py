"""Tiny random Whispers for tests of tasks, pipelines, recipes and servers, with what reads sound and writes words for them.

`save_tiny_whisper`: a folder with a processor as OpenAI's, letters instead of merged tokens. `word_whisper`: a deed model and
thirty made-up words, which hears two seconds at a time.
"""

import torch
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from deed import DeedConfig, get_deed_model

TIMES = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
MARKS = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
SPECIAL = ["<pad>", "</s>", "<start>", "<|en|>", "<|de|>", "<translate>", "<transcribe>", "<prev>", "<notimestamps>"]
SHORT_TIMES = TIMES[:101]
VOCAB = [*SPECIAL[:2], *(f" w{i}" for i in range(30)), *SPECIAL[2:], *SHORT_TIMES]


def random_whisper(size, end, pad, start, std=0.3, **changes):
    """A plain Whisper of three decoder layers, one encoder layer if nothing else is said, that says something.

    Args:
        size: of the vocabulary.
        end, pad, start: ids of special tokens.
        std: of weights.
        changes: of the configuration.
    """
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_layers": 1, "decoder_layers": 3, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16}
    ids = {"pad_token_id": pad, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(**{"vocab_size": size, "num_mel_bins": 8, **sizes, **ids, **changes})
    model = WhisperForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, std if parameter.ndim > 1 else 0.1)
    return model


class WordProcessor:
    """A feature extractor and a tokenizer of words and marks, as a processor holds them.

    Args:
        extractor: None: a Whisper's, of two seconds.
    """

    def __init__(self, extractor=None):
        inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCAB)}, unk_token=" w0"))
        inner.decoder = decoders.Fuse()  # words bring their spaces
        self.feature_extractor = extractor or WhisperFeatureExtractor(feature_size=8, chunk_length=2)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token=" w0",
            additional_special_tokens=[*SPECIAL[2:], *SHORT_TIMES],
        )


def word_whisper():
    """A deed model and its processor."""
    index = {token: i for i, token in enumerate(VOCAB)}
    limits = {"encoder_layers": 2, "max_source_positions": 100, "max_target_positions": 32}
    none = {"begin_suppress_tokens": None, "suppress_tokens": None}
    model = random_whisper(len(VOCAB), 1, 0, index["<start>"], **limits, **none)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight[index[TIMES[0]] :] *= 0.3  # words are likelier than times
    vars(model.generation_config).update(
        is_multilingual=True,
        lang_to_id={"<|en|>": index["<|en|>"], "<|de|>": index["<|de|>"]},
        task_to_id={"translate": index["<translate>"], "transcribe": index["<transcribe>"]},
        no_timestamps_token_id=index["<notimestamps>"],
        prev_sot_token_id=index["<prev>"],
        max_initial_timestamp_index=50,
        alignment_heads=[[1, 0], [2, 1]],
        max_length=20,
        suppress_tokens=[0, 1, *(index[token] for token in SPECIAL[2:])],  # it says words until it has to end
    )
    return get_deed_model(model, DeedConfig(threshold=0.5)), WordProcessor()


def tiny_tokenizer(multilingual=True):
    """With as many tokens as the real ones."""
    words = 50257 if multilingual else 50256
    vocab = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {f"<unused{i}>": i for i in range(len(vocab), words)}
    tokenizer = WhisperTokenizer(vocab={**vocab, "<|endoftext|>": words}, merges=[])
    languages = list(LANGUAGES)[:99]
    special = ["<|startoftranscript|>", *(f"<|{one}|>" for one in languages), *(f"<|{one}|>" for one in MARKS)]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens(TIMES)
    tokenizer.pad_token = tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def save_tiny_whisper(folder, multilingual=True):
    """The folder, the plain model and its processor."""
    tokenizer = tiny_tokenizer(multilingual)
    ids = {token: i for token, i in tokenizer.get_vocab().items() if token.startswith("<|")}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    model = random_whisper(len(tokenizer), end, end, start, std=0.4, max_target_positions=24)
    values = {"no_timestamps_token_id": ids["<|notimestamps|>"], "is_multilingual": multilingual}
    if multilingual:
        values["lang_to_id"] = {f"<|{one}|>": ids[f"<|{one}|>"] for one in list(LANGUAGES)[:99]}
        values["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")}
    vars(model.generation_config).update(values, _from_model_config=False)
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
