"""Decoders of BART's build, each a line of `BUILDS` (whole models) or `DECODERS` (those inside composite models).

They share the modules of a layer and their names, and differ in where norms stand, what is scaled, and where things are.
Read in transformers 5.23, models/*/modeling_*.py; each line says what the class's decoder does in its `forward`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from deed.errors import DeedConfigError

from .base import DecoderFamily, register_family
from .chains import Chains, Modules, chains_of, row_norm
from .encoders.layer import EncoderLayer, encoder_layer, feed_forward, layer_norm_stretches
from .parts import AttentionParts, LayerParts, Module, activated, direct, direct_norm, joined, plain
from .positions import placed


@dataclass(frozen=True)
class Build:
    """How a decoder of BART's build is put together.

    Attributes:
        at: path of the decoder in the model.
        head_at: path of the generation head.
        post_norm: norms follow the residual sums (BART) instead of preceding each part (mBART).
        embed_norm: what `layernorm_embedding` is applied to: "sum" of tokens and positions, "tokens" alone, or None.
        scaled: the decoder multiplies tokens by its `embed_scale`; False also where the embedding module does so itself.
        final: name of the norm after the last layer, or None.
        bias: the model adds `final_logits_bias` to its logits.
        cross: name of a layer's attention to the source.
        feed_norm: name of the norm before, or after, a layer's feed-forward network.
        sees_encoder_mask: the decoder is given the encoder's mask.
        column: the position embedding takes positions as a column `[n, 1]`.
        positions_from_mask: see `DecoderFamily`.
        passes: see `DecoderFamily`.
    """

    at: str = "model.decoder"
    head_at: str = "lm_head"
    post_norm: bool = False
    embed_norm: str | None = None
    scaled: bool = False
    final: str | None = None
    bias: bool = False
    cross: str = "encoder_attn"
    feed_norm: str = "final_layer_norm"
    sees_encoder_mask: bool = True
    column: bool = False
    positions_from_mask: bool = False
    passes: tuple[str, ...] = ()

    def within(self, name: str) -> Build:
        """The same for a model that holds this one as its attribute `name`."""
        return replace(self, at=f"{name}.{self.at}", head_at=f"{name}.{self.head_at}")


class BartLikeFamily(DecoderFamily):
    """A decoder of BART's build. Subclass and set `build`, or make one of a build.

    Args:
        build: None keeps the class's own.
    """

    build = Build()

    def __init__(self, build: Build | None = None) -> None:
        self.build = build or self.build
        self.positions_from_mask, self.passes = self.build.positions_from_mask, self.build.passes

    def decoder(self, model: Any) -> nn.Module:
        """What is at `build.at`."""
        return attrgetter(self.build.at)(model)

    def layers(self, model: Any) -> nn.ModuleList:
        """The decoder's layers."""
        layers: nn.ModuleList = self.decoder(model).layers  # type: ignore[assignment]
        return layers

    def d_model(self, model: Any) -> int:
        """Of the decoder's own configuration."""
        return self._config(model).d_model

    def heads(self, model: Any) -> tuple[int, int]:
        """`decoder_attention_heads`, and d_model over it."""
        config = self._config(model)
        return config.decoder_attention_heads, config.d_model // config.decoder_attention_heads

    def _config(self, model: Any) -> Any:
        return self.decoder(model).config

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states; no mask where the decoder sees none.

        Args:
            model: the model.
            encoder_outputs: of the encoder.
            mask: `[rows, source]`, 1 keeps, or None.
        """
        return encoder_outputs[0], mask if self.build.sees_encoder_mask else None

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens and positions, scaled and normed as the decoder does.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        decoder: Any = self.decoder(model)
        hidden = decoder.embed_tokens(ids)
        if self.build.scaled:
            hidden = hidden * decoder.embed_scale
        # TrOCR may be configured without.
        norm = getattr(decoder, "layernorm_embedding", None) if self.build.embed_norm is not None else None
        if norm is not None and self.build.embed_norm == "tokens":
            hidden = norm(hidden)
        hidden = hidden + placed(decoder.embed_positions, ids, hidden, positions, self.build.column)
        if norm is not None and self.build.embed_norm == "sum":
            hidden = norm(hidden)
        return nn.functional.dropout(hidden, decoder.dropout, decoder.training)

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`."""
        self_mask, _, encoder_hidden, encoder_mask, cache, _ = given
        masks = (_for_rows(self_mask, hidden), encoder_hidden, _for_rows(encoder_mask, hidden))
        output = layer(hidden, *masks, past_key_values=cache, use_cache=True)
        return output[0] if isinstance(output, tuple) else output

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every layer."""
        found, build = [], self.build
        layers: list[Any] = list(self.layers(model))
        for layer in layers:
            cross = getattr(layer, build.cross)
            # A layer of somebody's own may do more than its modules.
            if not type(layer).__module__.startswith("transformers.") or not plain((layer, layer.self_attn, cross)):
                return None
            norm = getattr(layer, f"{build.cross}_layer_norm")
            found.append(
                LayerParts(
                    joined(_attention(layer.self_attn_layer_norm, layer.self_attn)),
                    _attention(norm, cross),
                    direct_norm(getattr(layer, build.feed_norm)),
                    self.feed_forward(layer),
                    post_norm=build.post_norm,
                    chains=self._chains(layer, norm),
                )
            )
        return found

    def _chains(self, layer: Any, cross_norm: Any) -> Chains | None:
        own, cross, ffn = layer.self_attn, getattr(layer, self.build.cross), self.feed_forward_modules(layer)
        if ffn is None:
            return None
        feed_norm = getattr(layer, self.build.feed_norm)
        norms = row_norm(layer.self_attn_layer_norm), row_norm(cross_norm), row_norm(feed_norm)
        qkv = (own.q_proj, own.k_proj, own.v_proj)
        up, act, down = ffn
        linears = (qkv, own.out_proj, cross.q_proj, cross.out_proj, (up,), act, down)
        return chains_of(layer, Modules(norms, *linears, self.build.post_norm))

    def feed_forward_modules(self, layer: Any) -> tuple[Any, Any, Any] | None:
        """A layer's first linear, activation and second linear; None where there is more to it."""
        return layer.fc1, layer.activation_fn, layer.fc2

    def feed_forward(self, layer: Any) -> Module:
        """A layer's feed-forward as a function."""
        up, down = activated(layer.fc1, layer.activation_fn), direct(layer.fc2)
        return lambda x: down(up(x))

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By its `k_proj` and `v_proj`."""
        attention = getattr(layer, self.build.cross)
        shape = (*encoder_hidden.shape[:2], -1, attention.head_dim)
        keys = direct(attention.k_proj)(encoder_hidden).view(shape).transpose(1, 2)
        return keys, direct(attention.v_proj)(encoder_hidden).view(shape).transpose(1, 2)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The norm after the last layer, where there is one."""
        norm: Any = self.build.final and getattr(self.decoder(model), self.build.final)
        return norm(hidden) if norm else hidden

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The projection, and `final_logits_bias`."""
        logits = self._head(model)(hidden)
        return logits + model.final_logits_bias if self.build.bias else logits

    def _head(self, model: Any) -> Any:
        return attrgetter(self.build.head_at)(model)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The two as bare functions."""
        norm: Any = functools.partial(self.final_norm, model)
        if self.build.final is not None:
            norm = direct_norm(getattr(self.decoder(model), self.build.final))
        head = direct(self._head(model))
        if not self.build.bias:
            return norm, head
        bias = model.final_logits_bias
        return norm, lambda x: head(x) + bias

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """The projection, `final_logits_bias`, no scale."""
        return self._head(model).weight, model.final_logits_bias[0] if self.build.bias else None, 1.0

    def vocab_size(self, model: Any) -> int:
        """Of the head."""
        head = self._head(model)
        size = getattr(head, "out_features", None)  # a replaced linear may have a method for its weight
        return head.weight.shape[0] if size is None else size


def _for_rows(mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor | None:
    """A mask of the full shape `[rows, 1, q, keys]`, which some layers (LED, MVP, TrOCR) insist on."""
    return None if mask is None else mask.expand(len(hidden), -1, hidden.shape[1], -1)


def _attention(norm: Any, attention: Any) -> AttentionParts:
    q, k, v, out = (direct(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj))
    heads, head_dim = attention.num_heads, attention.head_dim
    return AttentionParts(direct_norm(norm), q, k, v, out, heads, head_dim, attention.scaling)


BART = Build(post_norm=True, embed_norm="sum", bias=True)

# Models whose `generate()` drives one decoder.
BUILDS: dict[str, Build] = {
    "BartForConditionalGeneration": BART,
    "MBartForConditionalGeneration": Build(embed_norm="sum", final="layer_norm", bias=True),
    "MarianMTModel": Build(post_norm=True, scaled=True, bias=True),
    "PegasusForConditionalGeneration": Build(scaled=True, final="layer_norm", bias=True),
    "PegasusXForConditionalGeneration": Build(final="layer_norm", column=True),
    # Its last norm has the name that others give to the first.
    "BigBirdPegasusForConditionalGeneration": Build(final="layernorm_embedding", bias=True),
    "BlenderbotForConditionalGeneration": Build(final="layer_norm", bias=True),
    "BlenderbotSmallForConditionalGeneration": Build(post_norm=True, embed_norm="tokens", bias=True),
    "PLBartForConditionalGeneration": BART,
    "LEDForConditionalGeneration": replace(BART, at="led.decoder", passes=("global_attention_mask",)),
    "M2M100ForConditionalGeneration": Build(final="layer_norm"),  # and NLLB
    "Florence2ForConditionalGeneration": Build("model.language_model.decoder", post_norm=True, embed_norm="sum"),
    "WhisperForConditionalGeneration": Build(
        head_at="proj_out", final="layer_norm", sees_encoder_mask=False, positions_from_mask=True
    ),
}

# Decoders inside composite models (VisionEncoderDecoder and its like), by paths from themselves on: `Build.within`.
DECODERS: dict[str, Build] = {
    "BartForCausalLM": Build(post_norm=True, embed_norm="sum"),
    "MBartForCausalLM": Build(embed_norm="sum", final="layer_norm"),
    "TrOCRForCausalLM": Build(head_at="output_projection", post_norm=True, embed_norm="sum"),
}

for _name, _build in BUILDS.items():
    register_family(_name)(BartLikeFamily(_build))


@register_family("MvpForConditionalGeneration")
class MvpFamily(BartLikeFamily):
    """MVP without prompts."""

    build = replace(BART, scaled=True)

    def resolve(self, model: Any) -> DecoderFamily:
        """Itself.

        Raises:
            DeedConfigError: the model puts learned prompts before the keys of every layer.
        """
        if model.config.use_prompt:
            raise DeedConfigError(
                "MVP with use_prompt=True puts learned keys before those of every layer, which early exit does not support; "
                "load it with use_prompt=False"
            )
        return self


@register_family("Speech2TextForConditionalGeneration")
class Speech2TextFamily(BartLikeFamily):
    """Speech2Text: the encoder's states are fewer than its input's frames, and so is the mask."""

    build = Build(scaled=True, final="layer_norm")

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states, and the mask of its input's frames down-sampled to theirs.

        Args:
            model: the model.
            encoder_outputs: of the encoder.
            mask: `[rows, frames]`, 1 keeps, or None.
        """
        states = encoder_outputs[0]
        if mask is not None:
            mask = model.model._get_feature_vector_attention_mask(states.shape[1], mask)
        return states, mask


POST_NORM = ("Bart", "Marian", "PLBart", "BlenderbotSmall", "Mvp")
PRE_NORM = ("MBart", "Pegasus", "Blenderbot", "M2M100", "Whisper", "Speech2Text")


@encoder_layer(*(f"{name}EncoderLayer" for name in (*POST_NORM, *PRE_NORM)))
def encoder_bart_layer(layer: Any) -> EncoderLayer:
    """A layer of an encoder of BART's build. LED's, PegasusX's and BigBirdPegasus' attend in windows and run by themselves."""
    name, attention = type(layer).__name__.removesuffix("EncoderLayer"), layer.self_attn
    norms = layer.self_attn_layer_norm, layer.final_layer_norm
    ffn = layer.fc1, layer.activation_fn, layer.fc2
    names = "q_proj", "k_proj", "v_proj", "out_proj"
    whole = layer_norm_stretches(norms, attention, names, ffn, name in POST_NORM)
    parts = _attention(norms[0], attention)
    return EncoderLayer(
        parts if whole is not None else joined(parts),
        direct_norm(layer.final_layer_norm),
        feed_forward(*ffn),
        (attention,),
        post_norm=name in POST_NORM,
        values=2 if name == "Mvp" else 0,
        stretches=whole,
    )
