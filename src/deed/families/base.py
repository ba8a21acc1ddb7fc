"""The interface that a decoder family implements so that the engine can run its layers.

A family knows its model's modules and nothing of exits, rows or caches. It holds no state: every method takes the model.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache

from .parts import LayerParts, Module
from .refused import REFUSED


class DecoderFamily:
    """One kind of decoder. Subclass, fill in, and `@register_family("ClassName", …)`.

    Attributes:
        has_bias: whether there is a `position_bias`; `bias_per_layer`: whether it differs by layer.
        has_cross_bias: whether there is a `cross_bias`.
        positions_from_mask: positions count what a `decoder_attention_mask` keeps, instead of all tokens (Whisper).
        passes: encoder inputs that the model's `generate()` hands over at every step; decoding ignores them.
        hides_padding: in training, the model hides padding among the tokens that it shifts labels to.
        unused: beginnings of the names of tensors that play no part in generation, so that a checkpoint may lack them.
    """

    has_bias = False
    bias_per_layer = False
    has_cross_bias = False
    positions_from_mask = False
    passes: tuple[str, ...] = ()
    hides_padding = False
    unused: tuple[str, ...] = ()

    def resolve(self, model: Any) -> DecoderFamily:
        """The family that drives this model. Asked once, when early exit is put on a model; a class that holds one of
        several decoders answers with one made for the decoder it has."""
        return self

    def attention(self, model: Any) -> str:
        """The attention implementation that the decoder's layers run: "eager", "sdpa" … The decoder's own configuration
        decides, which in a composite model is not the model's."""
        config = getattr(self.decoder(model), "config", model.config)
        return getattr(config, "_attn_implementation", None) or "eager"

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the decoder attends to, asked once per generation: states `[rows, source, width]` that `cross_kv` gets,
        and their mask `[rows, source]`, 1 keeps, None keeps all.

        Args:
            model: the model.
            encoder_outputs: what its encoder returned.
            mask: `[rows, length]`, the encoder's `attention_mask`, or None.
        """
        return encoder_outputs[0], mask

    def for_source(self, model: Any, encoder_outputs: Any) -> DecoderFamily:
        """This family for one generation, whose encoder outputs these are. A family that needs more of them than their
        states (OFA: where things are in the source) answers with one that remembers it, the others with themselves."""
        return self

    def decoder(self, model: Any) -> nn.Module:
        """The module that holds the decoder layers."""
        raise NotImplementedError

    def layers(self, model: Any) -> nn.ModuleList:
        """The decoder layers, bottom first."""
        raise NotImplementedError

    def with_layers(self, layers: Sequence[nn.Module]) -> DecoderFamily:
        """This family for one generation in which `layers` are its layers: the model's, and after them those of exits that
        have one of their own, each of the last layer's build."""
        found = copy.copy(self)
        found.layers = lambda model: layers  # type: ignore[method-assign, assignment, return-value]
        return found

    def d_model(self, model: Any) -> int:
        """Width of the decoder's hidden states."""
        return model.config.d_model

    def heads(self, model: Any) -> tuple[int, int]:
        """Number of attention heads and width of one."""
        raise NotImplementedError

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """First layer's input `[rows, q, d_model]`.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1, q]` long, those of all rows, or `[rows, q]`.
        """
        raise NotImplementedError

    def embedding(self, model: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """`embed` as a function of ids and positions alone. Asked once per generation, as `norm_and_head`."""
        return functools.partial(self.embed, model)

    def join_sources(self, other: DecoderFamily) -> DecoderFamily:
        """The family for the rows of this generation and, after them, those of another one with the same model, whose
        family is `other`. Sources of different length are padded at their end.

        Raises:
            ValueError: what it knows of the two sources does not go together.
        """
        return self

    def position_bias(self, model: Any, start: int, stop: int, layer: int = 0) -> torch.Tensor | None:
        """What is added to the self-attention scores of positions start..stop: `[1, heads, stop - start, stop]`, a function
        of positions alone. Set `has_bias` where there is one, and `bias_per_layer` where it differs by layer. Rows at
        positions of their own cut theirs out of one such table.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
            layer: 0-based.
        """
        return None

    def window(self, model: Any, layer: int) -> int | None:
        """How many positions a layer's self-attention sees, the newest included (a sliding window); None: all.

        Args:
            model: the model.
            layer: 0-based.
        """
        return None

    def cross_bias(self, model: Any, start: int, stop: int) -> torch.Tensor | None:
        """What is added to every layer's scores of positions start..stop towards the source: `[1, heads, stop - start,
        source]`. Set `has_cross_bias` where there is one. Asked of what `for_source` answered.

        Args:
            model: the model.
            start: first position.
            stop: one beyond the last.
        """
        return None

    def run(
        self,
        layer: Any,
        hidden: torch.Tensor,
        self_mask: torch.Tensor | None,
        bias: torch.Tensor | None,
        encoder_hidden: torch.Tensor,
        encoder_mask: torch.Tensor | None,
        cache: EncoderDecoderCache,
        positions: torch.Tensor,
        /,
    ) -> torch.Tensor:
        """One decoder layer by its own `forward`: `[rows, q, d_model]` in and out.

        Args:
            layer: one of `layers`.
            hidden: `[rows, q, d_model]`.
            self_mask: `[rows or 1, 1, q, keys]`, as Transformers makes it, or None.
            bias: `position_bias`, or None.
            encoder_hidden: `[batch rows, source, width]`, as `source` gave it; not to be used where keys and values of the
                source are read from the cache.
            encoder_mask: `[rows or 1, 1, 1, source]` or None; where there is a `cross_bias`, that with padding masked, to be
                added to the scores, `[rows or 1, heads, q, source]`.
            cache: what the layer gets as `past_key_values`; `get_seq_length()` is `start` of the block.
            positions: of the block, `[1 or rows, q]` long.
        """
        raise NotImplementedError

    def parts(self, model: Any) -> list[LayerParts] | None:
        """The layers as their modules, which the engine then runs without the layers' own overhead (`parts.py`). None
        where a layer has to be run by itself: `run` is called then. Asked once per generation."""
        return None

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-attention keys and values `[rows, heads, source, head_dim]` of a layer, by its own projections."""
        raise NotImplementedError

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """What the model does between its last layer and its head, save scaling (final norm, dropout)."""
        return hidden

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The model's own generation head on finished features: scaling, projection, bias."""
        raise NotImplementedError

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """`final_norm` and `head` as functions of the features alone. Asked once per generation, so that what the two look up
        anew each time, and the overhead of calling modules, can be left out."""
        return functools.partial(self.final_norm, model), functools.partial(self.head, model)

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """The head as numbers: weight `[vocab, d_model]`, bias `[vocab]` or None, and the factor on the features. What
        `head` computes is `weight @ (factor * features) + bias`."""
        raise NotImplementedError

    def vocab_size(self, model: Any) -> int:
        """Size of the head's output."""
        head = model.get_output_embeddings()
        size = getattr(head, "out_features", None)  # a replaced linear may have a method for its weight
        return head.weight.shape[0] if size is None else size


_FAMILIES: dict[str, DecoderFamily] = {}


def register_family(*class_names: str) -> Any:
    """Class decorator: this family drives models of these classes (and their subclasses). Takes a family, too.

    Example:
        ```python
        from deed.families.bart_like import BartLikeFamily, Build

        @deed.register_family("MBartForConditionalGeneration")
        class MBartFamily(BartLikeFamily):
            '''BART with pre-norm layers, so that a norm stands before the head.'''

            build = Build(embed_norm="sum", final="layer_norm", bias=True)
        ```
    """

    def register(family: Any) -> Any:
        for name in class_names:
            _FAMILIES[name] = family() if isinstance(family, type) else family
        return family

    return register


def family_of(model: Any) -> DecoderFamily:
    """The family registered for the model's class or the nearest of its bases.

    Raises:
        TypeError: none is; the message says why not (`refused.py`), or lists what is.
        DeedConfigError: the family does not support the model's configuration.
    """
    name = type(model).__name__
    for cls in inspect.getmro(type(model)):
        if cls.__name__ in _FAMILIES:
            return _FAMILIES[cls.__name__].resolve(model)
        if cls.__name__ in REFUSED:
            raise TypeError(f"early exit does not support {name}: {REFUSED[cls.__name__]}")
    config = getattr(model, "config", None)
    hint = "" if getattr(config, "is_encoder_decoder", True) else f" ({name} is no encoder-decoder model)"
    raise TypeError(
        f"no decoder family for {name}{hint}; known: {', '.join(sorted(_FAMILIES))}. Add one with "
        "deed.families.register_family (one line for decoders of BART's build): docs/families.md, Writing one"
    )


def registered() -> dict[str, DecoderFamily]:
    """The registered families by class name."""
    return dict(_FAMILIES)


def by_starts(
    place: Callable[[torch.Tensor, int], torch.Tensor], ids: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """For modules that take the first of consecutive positions as a number: rows with the same one together.

    Args:
        place: of ids `[n, q]` and their first position makes `[1 or n, q, d_model]` or `[q, d_model]`.
        ids: `[rows, q]`.
        positions: `[1 or rows, q]`.
    """
    starts = positions[:, 0].tolist()
    if len(set(starts)) == 1:
        return place(ids, starts[0])
    found: dict[int, torch.Tensor] = {}
    for start in sorted(set(starts)):
        rows = [r for r, s in enumerate(starts) if s == start]
        made = place(ids[rows], start)
        found.update(zip(rows, made.expand(len(rows), *made.shape[-2:]), strict=True))
    return torch.stack([found[r] for r in range(len(starts))])
