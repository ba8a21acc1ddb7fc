"""Tiny random composite models: an encoder of 24 numbers and a decoder of 32, so that the source is projected."""

from typing import Any

import transformers as hf

from tiny import ENCODER, EOS, LAYERS, PAD, VOCAB, WIDTH, Tiny, audio, causal, pictures, text

NARROW = {"num_hidden_layers": ENCODER, "num_attention_heads": 4, "intermediate_size": 32}
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "is_decoder": True,
    "add_cross_attention": True,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": EOS,
}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 64,
    "add_cross_attention": True,
    "scale_attn_by_inverse_layer_idx": True,
    "bos_token_id": 0,
    "eos_token_id": EOS,
}
DECODERS = {
    "BERT": lambda: hf.BertLMHeadModel(hf.BertConfig(**BERT)),
    "BertGeneration": lambda: hf.BertGenerationDecoder(hf.BertGenerationConfig(**BERT)),
    "RoBERTa": lambda: hf.RobertaForCausalLM(hf.RobertaConfig(**BERT)),
    "CamemBERT": lambda: hf.CamembertForCausalLM(hf.CamembertConfig(**BERT)),
    "XLM-RoBERTa": lambda: hf.XLMRobertaForCausalLM(hf.XLMRobertaConfig(**BERT)),
    "GPT-2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "mBART": lambda: causal("MBartForCausalLM"),
}


def of_text(width: int = 24) -> Any:
    """BERT, without its pooler."""
    shape = {"vocab_size": VOCAB, "hidden_size": width, "max_position_embeddings": 64}
    return hf.BertModel(hf.BertConfig(**shape, **NARROW), add_pooling_layer=False)


def of_pictures(width: int = 24) -> Any:
    """ViT, without its pooler."""
    return hf.ViTModel(hf.ViTConfig(hidden_size=width, image_size=16, patch_size=8, **NARROW), add_pooling_layer=False)


def of_sound(width: int = 24) -> Any:
    """wav2vec 2.0: 8 samples make one state."""
    shape = {"conv_dim": (8, 8), "conv_kernel": (4, 2), "conv_stride": (4, 2), "num_feat_extract_layers": 2}
    shape |= {
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "mask_time_prob": 0.0,
        "layerdrop": 0.0,
    }
    shape |= {"feat_extract_norm": "layer"}  # or padding would change what is heard
    return hf.Wav2Vec2Model(hf.Wav2Vec2Config(hidden_size=width, **shape, **NARROW))


KINDS = {
    "EncoderDecoderModel": (hf.EncoderDecoderModel, of_text, text),
    "VisionEncoderDecoderModel": (hf.VisionEncoderDecoderModel, of_pictures, pictures),
    "SpeechEncoderDecoderModel": (hf.SpeechEncoderDecoderModel, of_sound, audio),
}


def composite(kind: str, decoder: str, width: int = 24) -> Tiny:
    """A composite model.

    Args:
        kind: one of `KINDS`.
        decoder: one of `DECODERS`.
        width: of the encoder.
    """
    cls, encoder, inputs = KINDS[kind]

    def make() -> Any:
        model = cls(encoder=encoder(width), decoder=DECODERS[decoder]())
        tokens = {"decoder_start_token_id": 0, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 0}
        for name, value in tokens.items():
            setattr(model.config, name, value)
        model.generation_config = hf.GenerationConfig(**tokens)
        return model

    # A generated padding token has no position of its own in RoBERTa's.
    return Tiny(make, inputs, options={"suppress_tokens": [PAD]})


COMPOSITES = {
    **{
        f"EncoderDecoderModel ({name})": composite("EncoderDecoderModel", name) for name in DECODERS if name != "mBART"
    },
    "EncoderDecoderModel (BERT, equal widths)": composite("EncoderDecoderModel", "BERT", WIDTH),
    **{
        f"VisionEncoderDecoderModel ({name})": composite("VisionEncoderDecoderModel", name)
        for name in ("BERT", "GPT-2", "RoBERTa")
    },
    **{
        f"SpeechEncoderDecoderModel ({name})": composite("SpeechEncoderDecoderModel", name)
        for name in ("BERT", "GPT-2", "mBART")
    },
}
