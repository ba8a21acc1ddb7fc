"""Tiny random models of every supported class, and encoder inputs for them: `TINY[name]` builds one in float64.

Weights are large enough that exits disagree, encoders and decoders have unequal depth, and sources are ragged.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf

VOCAB, WIDTH, ENCODER, LAYERS = 40, 32, 2, 4
PAD, EOS = 1, 2


@dataclass
class Tiny:
    """One class.

    Attributes:
        make: a plain model, in evaluation mode and float64; weights not yet random.
        inputs: encoder inputs of some rows, ragged where the class takes a mask.
        post_norm: layers change their input less, so weights are smaller.
        options: of `generate()`.
    """

    make: Callable[[], Any]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    post_norm: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> Any:
        """The model with random weights."""
        torch.manual_seed(seed)
        model = self.make().double().eval()
        randomize(model, self.post_norm, seed)
        model.generation_config.forced_eos_token_id = None
        return model


TINY: dict[str, Tiny] = {}


POSITIONS = ("embed_positions", "relative", "position_embeddings", "wpe")


def randomize(model: Any, post_norm: bool, seed: int = 0) -> None:
    """Weights that make exits disagree; norms and biases too, whose initial 1 and 0 would hide mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad:  # sinusoidal tables, which are not saved either
                continue
            if p.ndim > 1:
                p.normal_(0, 0.15 if post_norm else 0.3)
                if any(part in name for part in POSITIONS):  # or one token would follow itself for ever
                    p.mul_(3.0)
            elif any(part in name.lower() for part in ("norm", "ln_")) and name.endswith("weight"):
                p.uniform_(0.5, 1.5)
                if "RMSNorm" in type(model.get_submodule(name.rpartition(".")[0])).__name__:
                    p.sub_(1.0)  # Gemma's multiply by 1 + weight
            else:
                p.normal_(0, 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("final_logits_bias"):
                buffer.normal_(0, 0.3)


def text(rows: int, length: int = 7, pad: int = PAD) -> dict[str, torch.Tensor]:
    """Ragged token ids and their mask."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for r in range(1, rows):
        mask[r, length - (r * 2) % length :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


BART_NAMES = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "encoder_layers": ENCODER,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": EOS,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": None,
    "scale_embedding": True,
}


def seq2seq(config: Any, model: Any, **options: Any) -> Callable[[], Any]:
    """A class whose configuration has BART's names."""
    return lambda: model(config(**{**BART_NAMES, **options}))


def add(name: str, make: Callable[[], Any], inputs: Any = text, post_norm: bool = False, **options: Any) -> None:
    """Register a class."""
    TINY[name] = Tiny(make, inputs, post_norm, options)


# -- BART-like --------------------------------------------------------------------------------------------------------

add("BartForConditionalGeneration", seq2seq(hf.BartConfig, hf.BartForConditionalGeneration), post_norm=True)
add("MBartForConditionalGeneration", seq2seq(hf.MBartConfig, hf.MBartForConditionalGeneration))
# Marian's own configuration forbids the padding token, which is also what it starts with.
add(
    "MarianMTModel",
    seq2seq(hf.MarianConfig, hf.MarianMTModel, decoder_start_token_id=PAD),
    post_norm=True,
    bad_words_ids=[[PAD]],
)
add("PegasusForConditionalGeneration", seq2seq(hf.PegasusConfig, hf.PegasusForConditionalGeneration))
add(
    "PegasusXForConditionalGeneration",
    seq2seq(hf.PegasusXConfig, hf.PegasusXForConditionalGeneration, block_size=4, num_global_tokens=2),
)
add(
    "BigBirdPegasusForConditionalGeneration",
    seq2seq(
        hf.BigBirdPegasusConfig,
        hf.BigBirdPegasusForConditionalGeneration,
        attention_type="original_full",
        use_bias=True,
    ),
)
add("BlenderbotForConditionalGeneration", seq2seq(hf.BlenderbotConfig, hf.BlenderbotForConditionalGeneration))
add(
    "BlenderbotSmallForConditionalGeneration",
    seq2seq(hf.BlenderbotSmallConfig, hf.BlenderbotSmallForConditionalGeneration),
    post_norm=True,
)
add("PLBartForConditionalGeneration", seq2seq(hf.PLBartConfig, hf.PLBartForConditionalGeneration), post_norm=True)
add("MvpForConditionalGeneration", seq2seq(hf.MvpConfig, hf.MvpForConditionalGeneration), post_norm=True)
add(
    "LEDForConditionalGeneration",
    seq2seq(
        hf.LEDConfig,
        hf.LEDForConditionalGeneration,
        attention_window=[4, 4],
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
    ),
    post_norm=True,
)
add(
    "M2M100ForConditionalGeneration",
    seq2seq(hf.M2M100Config, hf.M2M100ForConditionalGeneration),
    suppress_tokens=[PAD],  # which, when generated, gets no position in one pass and one of its own step by step
)


def audio_frames(rows: int, length: int = 24, features: int = 8) -> dict[str, torch.Tensor]:
    """Ragged filter banks, frames first."""
    generator = torch.Generator().manual_seed(rows)
    frames = torch.randn(rows, length, features, generator=generator, dtype=torch.float64)
    mask = torch.ones(rows, length, dtype=torch.long)
    for r in range(1, rows):
        mask[r, length - (r * 7) % length :] = 0
    return {"input_features": frames, "attention_mask": mask}


add(
    "Speech2TextForConditionalGeneration",
    seq2seq(
        hf.Speech2TextConfig,
        hf.Speech2TextForConditionalGeneration,
        input_feat_per_channel=8,
        conv_channels=16,
        max_source_positions=64,
        max_target_positions=64,
    ),
    audio_frames,
    suppress_tokens=[PAD],
)


def spectrogram(rows: int) -> dict[str, torch.Tensor]:
    """Mel bins first; Whisper takes no mask."""
    generator = torch.Generator().manual_seed(rows)
    return {"input_features": torch.randn(rows, 8, 20, generator=generator, dtype=torch.float64)}


add(
    "WhisperForConditionalGeneration",
    seq2seq(
        hf.WhisperConfig,
        hf.WhisperForConditionalGeneration,
        num_mel_bins=8,
        max_source_positions=10,
        max_target_positions=64,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    spectrogram,
)


IMAGE = VOCAB - 1  # stands for a picture's patches


def florence() -> Any:
    text_config = {"model_type": "bart", **BART_NAMES}
    vision_config = {
        "embed_dim": [8, 8, 8, 8],
        "num_heads": [2, 2, 2, 2],
        "num_groups": [2, 2, 2, 2],
        "depths": [1, 1, 1, 1],
        "window_size": 2,
        "projection_dim": WIDTH,
        "max_temporal_embeddings": 4,
        "max_position_embeddings": 8,
    }
    config = hf.Florence2Config(text_config=text_config, vision_config=vision_config, image_token_id=IMAGE)
    return hf.Florence2ForConditionalGeneration(config)


def text_and_picture(rows: int) -> dict[str, torch.Tensor]:
    """One picture a row, its patches before ragged text."""
    found = text(rows)
    ids = found["input_ids"].masked_fill(found["input_ids"] == IMAGE, 3)
    generator = torch.Generator().manual_seed(rows)
    patches = torch.full((rows, PATCHES), IMAGE)
    return {
        "input_ids": torch.cat([patches, ids], 1),
        "attention_mask": torch.cat([torch.ones_like(patches), found["attention_mask"]], 1),
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=generator, dtype=torch.float64),
    }


PATCHES = 2
add("Florence2ForConditionalGeneration", florence, text_and_picture, post_norm=True)


# -- decoders inside composite models ------------------------------------------------------------------------------------


def causal(name: str, **options: Any) -> Any:
    """A decoder with attention to a source of `WIDTH` numbers."""
    config, model = {
        "BartForCausalLM": (hf.BartConfig, hf.BartForCausalLM),
        "MBartForCausalLM": (hf.MBartConfig, hf.MBartForCausalLM),
        "TrOCRForCausalLM": (hf.TrOCRConfig, hf.TrOCRForCausalLM),
    }[name]
    make = seq2seq(config, model, is_decoder=True, add_cross_attention=True, is_encoder_decoder=False, **options)
    if name != "TrOCRForCausalLM":  # plain generate() makes a cache of as many layers as the encoder would have
        make = seq2seq(
            config,
            model,
            is_decoder=True,
            add_cross_attention=True,
            is_encoder_decoder=False,
            encoder_layers=LAYERS + 1,
            **options,
        )
    return make()


def picture_to_text(name: str, **options: Any) -> Callable[[], Any]:
    """A ViT and one of those decoders."""

    def make() -> Any:
        vit = hf.ViTConfig(
            hidden_size=24,
            num_hidden_layers=ENCODER,
            num_attention_heads=4,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
        model = hf.VisionEncoderDecoderModel(encoder=hf.ViTModel(vit), decoder=causal(name, **options))
        model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = EOS, PAD, EOS
        tokens = {"decoder_start_token_id": EOS, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 0}
        model.generation_config = hf.GenerationConfig(**tokens)
        return model

    return make


def pictures(rows: int) -> dict[str, torch.Tensor]:
    """Random pixels."""
    generator = torch.Generator().manual_seed(rows)
    return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator, dtype=torch.float64)}


add("VisionEncoderDecoderModel-Bart", picture_to_text("BartForCausalLM"), pictures, post_norm=True)
add("VisionEncoderDecoderModel-MBart", picture_to_text("MBartForCausalLM"), pictures)
add("VisionEncoderDecoderModel-TrOCR", picture_to_text("TrOCRForCausalLM", layernorm_embedding=True), pictures, True)
add(
    "VisionEncoderDecoderModel-TrOCR-sinusoidal",
    picture_to_text("TrOCRForCausalLM", use_learned_position_embeddings=False, layernorm_embedding=False),
    pictures,
    True,
    suppress_tokens=[PAD],
)


def audio(rows: int, length: int = 96) -> dict[str, torch.Tensor]:
    """Ragged sound."""
    generator = torch.Generator().manual_seed(rows)
    mask = torch.ones(rows, length, dtype=torch.long)
    for r in range(1, rows):
        mask[r, length - (r * 31) % length :] = 0
    return {
        "input_values": torch.randn(rows, length, generator=generator, dtype=torch.float64) * mask,
        "attention_mask": mask,
    }


# -- T5-like and rotary: files of their own, which add theirs ----------------------------------------------------------

import tiny_rotary  # noqa: E402, F401
import tiny_t5  # noqa: E402, F401
