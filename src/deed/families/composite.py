"""EncoderDecoderModel, VisionEncoderDecoderModel and SpeechEncoderDecoderModel: any encoder with one of several decoders.

The family is that of the decoder inside, made for its place in the composite (`CompositeFamily.resolve`). What is the
composite's own is the source: the encoder's states, projected where its width is not the decoder's, and which mask the
decoder sees of them. Read in transformers 5.23, models/{encoder_decoder,vision_encoder_decoder,speech_encoder_decoder}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from deed.errors import DeedConfigError

from .bart_like import DECODERS as BART_DECODERS
from .bart_like import BartLikeFamily
from .base import DecoderFamily, register_family
from .bert_like import BERT_DECODERS, BertLikeFamily
from .gpt2 import GPT2Family
from .refused import reason_of

# Of the model, the encoder's states and the mask of its input, that of the states; 1 keeps, None keeps all.
SeenMask = Callable[[Any, torch.Tensor, "torch.Tensor | None"], "torch.Tensor | None"]


def as_given(model: Any, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Text: a token is a state.

    Args:
        model: the composite model.
        states: the encoder's, `[rows, source, width]`.
        mask: of the encoder's input, `[rows, length]`, 1 keeps, or None.
    """
    return mask


def none(model: Any, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Pictures have no padding.

    Args:
        model: the composite model.
        states: the encoder's, `[rows, source, width]`.
        mask: of the encoder's input, `[rows, length]`, 1 keeps, or None.
    """
    return None


def shortened(model: Any, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Sound: the encoder makes fewer states than its input has samples.

    Args:
        model: the composite model.
        states: the encoder's, `[rows, source, width]`.
        mask: of the encoder's input, `[rows, length]`, 1 keeps, or None.
    """
    return None if mask is None else model.encoder._get_feature_vector_attention_mask(states.shape[1], mask)


class _Inside(DecoderFamily):
    """What a decoder's family gains from its place in a composite model.

    Attributes:
        seen_mask: which mask of the source the decoder sees.
    """

    seen_mask: SeenMask
    unused = ("encoder.pooler.",)  # of BERT, ViT …; Microsoft's TrOCR checkpoints have none

    def source(
        self, model: Any, encoder_outputs: Any, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The encoder's states in the width that the decoder attends to, and their mask.

        Args:
            model: the composite model.
            encoder_outputs: of its encoder.
            mask: of the encoder's input, `[rows, length]`, 1 keeps, or None.
        """
        states = encoder_outputs[0]
        project = getattr(model, "enc_to_dec_proj", None)
        states = states if project is None else project(states)
        return states, self.seen_mask(model, states, mask)


class _InsideBart(_Inside, BartLikeFamily):
    pass


class _InsideBert(_Inside, BertLikeFamily):
    pass


class _InsideGPT2(_Inside, GPT2Family):
    pass


#: A new family for each class of decoder.
INSIDE: dict[str, Callable[[], _Inside]] = {
    **{name: lambda build=build: _InsideBert(build) for name, build in BERT_DECODERS.items()},  # type: ignore[misc]
    **{
        name: lambda build=build: _InsideBart(build.within("decoder"))  # type: ignore[misc]
        for name, build in BART_DECODERS.items()
    },
    "GPT2LMHeadModel": _InsideGPT2,
}


class CompositeFamily(DecoderFamily):
    """A composite class. Its models are driven by what `resolve` answers.

    Args:
        seen_mask: which mask of the source its decoders see.
        hides_padding: see `DecoderFamily`.
    """

    def __init__(self, seen_mask: SeenMask, hides_padding: bool = False) -> None:
        self.seen_mask, self.hides_padding = seen_mask, hides_padding

    def resolve(self, model: Any) -> DecoderFamily:
        """The family of the decoder inside.

        Raises:
            TypeError: there is none for its class.
            DeedConfigError: the decoder has no cross-attention.
        """
        names = [cls.__name__ for cls in type(model.decoder).__mro__]
        make = next((INSIDE[name] for name in names if name in INSIDE), None)
        if make is None:
            inside = f"the decoder inside, {names[0]}, has no family"
            why = reason_of(type(model.decoder)) or (
                f"those that have one are {', '.join(sorted(INSIDE))} (docs/families.md says how to add one)"
            )
            raise TypeError(f"{type(model).__name__}: {inside}: {why}")
        family = make()
        layer = family.layers(model)[0]
        if not any(hasattr(layer, name) for name in ("crossattention", "encoder_attn")):
            raise DeedConfigError(
                f"the decoder inside {type(model).__name__} has no cross-attention, so it does not see the source; make it "
                "from a configuration with is_decoder=True and add_cross_attention=True"
            )
        family.seen_mask, family.hides_padding = self.seen_mask, self.hides_padding
        return family


register_family("EncoderDecoderModel")(CompositeFamily(as_given, hides_padding=True))
register_family("VisionEncoderDecoderModel")(CompositeFamily(none))
register_family("SpeechEncoderDecoderModel")(CompositeFamily(shortened))
