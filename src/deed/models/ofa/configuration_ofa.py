"""Configuration of OFA: the fields of the Transformers port, and those that only the original code has.

OFA (Wang et al., ICML 2022, arXiv 2202.03052) was released for fairseq and in a port to Transformers that was never
merged. A port folder's `config.json` reads as it is; flags of the original that the port dropped default to what the
released run scripts pass.
"""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..registration import register_model

# Blocks per stage; a ResNet's fourth stage is left out.
RESNET_DEPTHS = {
    "resnet18": [2, 2, 2],
    "resnet34": [3, 4, 6],
    "resnet50": [3, 4, 6],
    "resnet101": [3, 4, 23],
    "resnet152": [3, 8, 36],
}
FROZEN_EPS = 1e-5  # of Transformers' frozen batch norm


@strict
class OFAConfig(PreTrainedConfig):
    """Defaults are the base preset with the released checkpoints' normformer norms.

    Args:
        d_model: width of encoder and decoder; the heads divide it.
        max_position_embeddings: longest text; the position tables have two rows more, as in the checkpoints.
        normformer: LayerNorms after attention and inside the feed-forward; what `scale_attn` and `scale_fc` default to.
        scale_attn: a LayerNorm after each attention, before the residual sum.
        scale_fc: a LayerNorm on the feed-forward's inner width.
        scale_heads: a learned factor per head (`c_attn`).
        scale_resids: a learned factor per channel on the feed-forward's residual (`w_resid`). In no released checkpoint.
        attn_scale_factor: scores are scaled by (head width times this)^-0.5, since a position term is added to them.
        entangle_position_embedding: add position embeddings to the encoder's input too.
        disable_entangle: do not add them to the decoder's input. The original adds them unless this is set, whatever
            `entangle_position_embedding` says.
        add_type_embedding: tell text (0) from image (1).
        layernorm_embedding, patch_layernorm_embedding, code_layernorm_embedding: a LayerNorm on embedded text, image
            patches, and image codes in the decoder.
        token_bucket_size: relative distances of text are exact to half of it, and logarithmic beyond.
        image_bucket_size: side of the largest grid of patches.
        code_image_size: side in pixels of an image written as codes, eight pixels a code.
        interpolate_position: for images of more than `orig_patch_image_size` pixels a side, interpolate the positions of
            that size instead of taking further rows of the table.
        resnet_type: depth of the image stem: resnet18, 34, 50, 101 or 152, without the last stage.
        share_decoder_input_output_embed: False unties the head and both embeddings (`tie_word_embeddings`).
        stem_widths: channels of the stem's first convolution and its three stages; None: [64, 256, 512, 1024].
        stem_depths: blocks of the three stages; None: those of `resnet_type`.
        stem_layer_type: "bottleneck", or "basic" blocks for small stems.
        batch_norm_eps: 1e-5; checkpoints trained with synchronized batch norm have 1e-3.
        freeze_resnet: batch norms with fixed statistics and factors.
        encoder_drop_path_rate, decoder_drop_path_rate, resnet_drop_path_rate: stochastic depth of the last layer, falling
            linearly to 0 at the first.
    """

    model_type = "ofa"
    keys_to_ignore_at_inference: ClassVar = ["past_key_values"]
    attribute_map: ClassVar = {
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 59457
    d_model: int = 768
    max_position_embeddings: int = 1024
    encoder_layers: int = 6
    encoder_ffn_dim: int = 3072
    encoder_attention_heads: int = 12
    decoder_layers: int = 6
    decoder_ffn_dim: int = 3072
    decoder_attention_heads: int = 12
    encoder_layerdrop: float | int = 0.0
    decoder_layerdrop: float | int = 0.0
    encoder_drop_path_rate: float | int = 0.0
    decoder_drop_path_rate: float | int = 0.0
    resnet_drop_path_rate: float | int = 0.0
    activation_function: str = "gelu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    init_std: float = 0.02
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    normformer: bool = True
    scale_attn: bool | None = None
    scale_fc: bool | None = None
    scale_heads: bool = True
    scale_resids: bool = False
    attn_scale_factor: float | int = 2.0
    scale_embedding: bool = False
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    code_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    entangle_position_embedding: bool = False
    disable_entangle: bool = True
    interpolate_position: bool = False
    token_bucket_size: int = 256
    image_bucket_size: int = 42
    code_image_size: int = 128
    orig_patch_image_size: int = 256
    resnet_type: str = "resnet101"
    stem_widths: list[int] | None = None
    stem_depths: list[int] | None = None
    stem_layer_type: str = "bottleneck"
    batch_norm_eps: float = 1e-5
    freeze_resnet: bool = False
    share_decoder_input_output_embed: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 0
    is_encoder_decoder: bool = True

    PRESETS: ClassVar[dict[str, tuple[int, int, int, int, int, str]]] = {
        "tiny": (256, 1024, 4, 4, 4, "resnet50"),
        "medium": (512, 2048, 4, 4, 8, "resnet101"),
        "base": (768, 3072, 6, 6, 12, "resnet101"),
        "large": (1024, 4096, 12, 12, 16, "resnet152"),
        "huge": (1280, 5120, 24, 12, 16, "resnet152"),
    }

    def __post_init__(self, **kwargs: Any) -> None:
        self.scale_attn = self.normformer if self.scale_attn is None else self.scale_attn
        self.scale_fc = self.normformer if self.scale_fc is None else self.scale_fc
        self.stem_widths = [64, 256, 512, 1024] if self.stem_widths is None else list(self.stem_widths)
        if self.stem_depths is None:
            if self.resnet_type not in RESNET_DEPTHS:
                raise ValueError(f"resnet_type must be one of {', '.join(RESNET_DEPTHS)}, got {self.resnet_type!r}")
            self.stem_depths = RESNET_DEPTHS[self.resnet_type]
        self.stem_depths = list(self.stem_depths)
        if not self.share_decoder_input_output_embed:
            self.tie_word_embeddings = False
        self._check()
        super().__post_init__(**kwargs)
        register_model(self.model_type)

    def _check(self) -> None:
        """Raises ValueError for fields that do not fit together."""
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                raise ValueError(f"{side}_attention_heads ({heads}) must divide d_model ({self.d_model})")
            if not getattr(self, f"{side}_normalize_before"):
                raise ValueError(f"{side}_normalize_before must be True: every OFA is pre-norm")
        if len(self.stem_widths or ()) != 4 or len(self.stem_depths or ()) != 3:
            raise ValueError(
                "stem_widths are four numbers (first convolution, three stages) and stem_depths three, got "
                f"{self.stem_widths} and {self.stem_depths}"
            )
        if self.stem_layer_type not in ("bottleneck", "basic"):
            raise ValueError(f"stem_layer_type must be 'bottleneck' or 'basic', got {self.stem_layer_type!r}")
        if self.freeze_resnet and self.batch_norm_eps != FROZEN_EPS:
            raise ValueError(f"freeze_resnet goes with batch_norm_eps {FROZEN_EPS}, got {self.batch_norm_eps}")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> OFAConfig:
        """One of the released sizes: tiny, medium, base, large, huge.

        Raises:
            ValueError: another name.
        """
        if name not in cls.PRESETS:
            raise ValueError(f"preset must be one of {', '.join(cls.PRESETS)}, got {name!r}")
        width, inner, encoder_layers, decoder_layers, heads, resnet = cls.PRESETS[name]
        values: dict[str, Any] = {
            "d_model": width,
            "encoder_ffn_dim": inner,
            "decoder_ffn_dim": inner,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "resnet_type": resnet,
        }
        return cls(**{**values, **overrides})


__all__ = ["OFAConfig"]
