"""OFA: one encoder-decoder for words, image patches, boxes as location bins, and images as codes.

Wang et al., ICML 2022, arXiv 2202.03052; read in OFA-Sys/OFA main a36b91c. Where the original (fairseq) and its
Transformers port differ this follows the original; parameter names are the port's. What is particular: positions act
through the attention scores, as an absolute bias that layers share plus a relative one per layer, and the decoder's
bias towards the encoder is made from the encoder's position embeddings.

Siblings: `stem.py`, `positions.py`, `layers.py`, `encoder.py`, `decoder.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.models.bart.modeling_bart import shift_tokens_right
from transformers.utils.generic import can_return_tuple

from .configuration_ofa import OFAConfig
from .decoder import OFADecoder
from .encoder import OFAEncoder, OFAEncoderOutput
from .layers import OFAPreTrainedModel

SHARED = "encoder.embed_tokens.weight"


class OFAForConditionalGeneration(OFAPreTrainedModel, GenerationMixin):
    """OFA with its language modelling head, `decoder.output_projection`, tied to both embeddings."""

    _tied_weights_keys = {"decoder.embed_tokens.weight": SHARED, "decoder.output_projection.weight": SHARED}  # noqa: RUF012

    def __init__(self, config: OFAConfig) -> None:
        super().__init__(config)
        self.encoder = OFAEncoder(config)
        self.decoder = OFADecoder(config)
        self.post_init()

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder."""
        return self.encoder

    def get_decoder(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of both sides, which are one."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the embeddings of both sides."""
        self.encoder.embed_tokens = self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.decoder.output_projection

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Replace the head."""
        self.decoder.output_projection = new_embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels `[batch, length]` shifted right by the start token, -100 as padding."""
        config: Any = self.config
        return shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        patch_images: torch.Tensor | None = None,
        patch_masks: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        code_masks: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """
        Args:
            input_ids: `[batch, text]` prompts.
            patch_images: `[batch, 3, height, width]` normalized pixels; None: no row has an image.
            patch_masks: `[batch]` bool, which rows have an image; None: all.
            attention_mask: `[batch, text]`, 1 keeps; None: all but the pad token.
            decoder_input_ids: `[batch, length]`; None: made from `labels`.
            encoder_outputs: an `OFAEncoderOutput`, instead of prompts and images. Its own mask counts; where it has none,
                `attention_mask` is that of the whole encoder sequence.
            labels: `[batch, length]`, -100 is ignored; the loss is their mean cross-entropy, or, where Trainer says how many
                there are in its accumulated batch (`num_items_in_batch`), their sum divided by that.
            code_masks: `[batch]` bool, rows whose decoder writes an image as codes; None: no row.

        Raises:
            ValueError: inputs that do not fit; the message names the field.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError("give decoder_input_ids (at least the start token) or labels")
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                patch_images=patch_images,
                patch_masks=patch_masks,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )
        if getattr(encoder_outputs, "position_embeddings", None) is None:
            raise ValueError("encoder_outputs must be what the encoder returned: position_embeddings are missing")
        kept = encoder_outputs.attention_mask
        out = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask if kept is None else kept,
            position_embeddings=encoder_outputs.position_embeddings,
            code_masks=encoder_outputs.code_masks if code_masks is None else code_masks,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.decoder.output_projection(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = _loss(logits, labels.to(logits.device), num_items)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        # From here on the mask is the encoder sequence's, patches included, and the pictures are done with.
        codes = model_kwargs.pop("code_masks", None)
        values = super()._maybe_prepare_encoder_kwargs_for_generation(  # type: ignore[misc]
            inputs_tensor, model_kwargs, *args, **kwargs
        )
        outputs = values["encoder_outputs"]
        mask = getattr(outputs, "attention_mask", None)
        if mask is not None:
            values["attention_mask"] = mask
        if codes is not None:
            values["encoder_outputs"] = OFAEncoderOutput(**{**outputs, "code_masks": codes})
        for name in ("patch_images", "patch_masks"):
            values.pop(name, None)
        return values


def _loss(logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor:
    reduction = "mean" if num_items is None else "sum"
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction=reduction)
    if num_items is None:
        return loss
    return loss / (num_items.to(loss.device) if isinstance(num_items, torch.Tensor) else num_items)


__all__ = ["OFAEncoderOutput", "OFAForConditionalGeneration"]
