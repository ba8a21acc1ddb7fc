"""LaTr++: a T5 whose encoder reads patches, question and OCR words with their boxes as one sequence.

LaTr (Biten et al., CVPR 2022, arXiv 2112.12494) adds to T5 six tables of box embeddings (x0, y0, x1, y1, width, height on
0..1000), summed to the words, and ViT patch features through a linear projection; there is no official code. "LaTr++" of
the DEED paper is not described in public: what follows is T5 + boxes + patches, and these points are ours:

- order `[patches, question, words]`: the number of patches is fixed, so padding at the right end of a batch changes no
  distance between two tokens, and a row's answer does not depend on the batch it is in;
- patches have boxes too, those of their cells (the class token that of the whole page), through the same tables;
- box tables start as smooth waves, so that neighbouring coordinates start alike.

After the encoder all is T5: the decoder, its names and its early-exit family.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import T5ForConditionalGeneration, ViTModel

from deed.utils.quiet import quiet

from .configuration_latr import LatrConfig
from .encoder import LatrEncoder, LatrEncoderOutput
from .packing import attention_scores_mask, follows, may_see
from .sharing import packed_pages, unpacked
from .spans import allowed_pieces, page_ids


class LatrForConditionalGeneration(T5ForConditionalGeneration):
    """LaTr++ with T5's language modelling head."""

    config: LatrConfig
    config_class = LatrConfig
    base_model_prefix = "latr"

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, as for the encoder."""
        return False

    def __init__(self, config: LatrConfig) -> None:
        super().__init__(config)
        self.encoder = LatrEncoder(self.encoder.config)  # type: ignore[arg-type]
        self.post_init()

    @classmethod
    def from_t5_vit_pretrained(
        cls, t5: str | os.PathLike[str], vit: str | os.PathLike[str] | None = None, **config: Any
    ) -> LatrForConditionalGeneration:
        """A LaTr++ that starts from any T5 checkpoint and any ViT (Transformers folders or Hub names).

        Args:
            t5: a `T5ForConditionalGeneration` checkpoint; all its weights are kept.
            vit: a `ViTModel` checkpoint (a classifier's backbone is taken); None: no vision.
            config: further fields of `LatrConfig`. `box_scale` defaults to a fiftieth of the T5 embeddings' size, so
                that the boxes start with little influence.

        Raises:
            OSError: a folder without a checkpoint.
            ValueError: a checkpoint of another model, or with weights missing.
        """
        t5_config = _config_of(t5, "t5")
        values = t5_config.to_dict()
        for name in ("model_type", "architectures", "vision_config", "transformers_version", "torch_dtype", "dtype"):
            values.pop(name, None)
        # T5Config forces tying on and remembers what the checkpoint said in the head's scaling.
        values["tie_word_embeddings"] = bool(values.pop("scale_decoder_outputs", True))
        vision = _config_of(vit, "vit").to_dict() if vit is not None else None
        latr_config = LatrConfig(**{**values, "vision_config": vision, "freeze_vision": vit is not None, **config})
        loader: Any = cls
        with quiet():
            model, info = loader.from_pretrained(t5, config=latr_config, output_loading_info=True)
        missing = sorted(k for k in info["missing_keys"] if not k.startswith(_OWN_WEIGHTS))
        if missing or info["mismatched_keys"]:
            raise ValueError(f"{t5} is not a whole T5 checkpoint: missing {missing[:3]}, {info['mismatched_keys']}")
        if "box_scale" not in config:
            scale = float(model.shared.weight.detach().float().std()) / 50
            with torch.no_grad():
                for table in model.encoder.box_embeddings.children():
                    table.weight.mul_(scale / model.config.box_scale)  # type: ignore[operator, union-attr]
            model.config.box_scale = model.encoder.config.box_scale = scale
        if vit is not None:
            vit_loader: Any = ViTModel
            with quiet():
                loaded_vit, info = vit_loader.from_pretrained(vit, add_pooling_layer=False, output_loading_info=True)
            if info["missing_keys"]:
                raise ValueError(f"{vit} is not a whole ViT checkpoint: missing {sorted(info['missing_keys'])[:3]}")
            model.encoder.vit.load_state_dict(loaded_vit.state_dict())
        return model

    def add_cells(self) -> None:
        """Give a trained model what `cell_bias` adds, as a fresh one has it."""
        self.config.cell_bias = True
        encoder: Any = self.encoder
        encoder.add_cells()

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        bbox: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        question_ids: torch.Tensor | None = None,
        answer_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """`T5ForConditionalGeneration.forward` with the page's boxes and image; see `LatrEncoder.forward`.

        With `encoder_outputs` given, `attention_mask` is that of the whole encoder sequence, unless
        they carry their own (`LatrEncoderOutput`).

        Args:
            input_ids, bbox, pixel_values, pixel_mask, attention_mask, inputs_embeds: the encoder's, see there.
            encoder_outputs: what the encoder returned, instead of these.
            question_ids: the encoder's, see there.
            answer_ids: `[batch, answers]`, for a page's answers one after the other (`packing.py`): k where the decoder's
                token is of the answer to the k-th question, 0 for padding; None: a row is one answer.
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, past_key_values, labels, use_cache, kwargs: T5's.
        """
        if encoder_outputs is None:
            passed = ("output_hidden_states", "output_attentions")
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                bbox=bbox,
                pixel_values=pixel_values,
                pixel_mask=pixel_mask,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                question_ids=question_ids,
                **{k: kwargs[k] for k in passed if k in kwargs},
            )
        mask = getattr(encoder_outputs, "attention_mask", None)
        if answer_ids is not None:
            owners = getattr(encoder_outputs, "question_ids", None)
            if owners is None or mask is None:
                raise ValueError('answer_ids take a model with question="late" and what its encoder returned')
            kind, eager = encoder_outputs[0].dtype, self.config._attn_implementation == "eager"
            mask = attention_scores_mask(may_see(answer_ids, owners, mask), kind, eager)
            decoder_attention_mask = attention_scores_mask(follows(answer_ids), kind, eager)
        return super().forward(
            encoder_outputs=encoder_outputs,
            attention_mask=attention_mask if mask is None else mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            **kwargs,
        )

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        pages = page_ids(inputs_tensor, model_kwargs.get("bbox")) if self.config.copy_answers else None
        shared = None
        wanted = [kwargs.get("generation_config", args[-1] if args else None), self.config]
        tells = any(getattr(c, name, False) for c in wanted for name in ("output_hidden_states", "output_attentions"))
        given = any(model_kwargs.get(name) is not None for name in ("inputs_embeds", "encoder_outputs"))
        if self.config.question == "late" and inputs_tensor.ndim == 2 and not (tells or given):
            shared = packed_pages(inputs_tensor, model_kwargs, self.config.pad_token_id or 0)
        if shared is not None:
            inputs_tensor, model_kwargs, places = shared
        # From here on the mask is the encoder sequence's, patches included, and the page itself is done with.
        values = super()._maybe_prepare_encoder_kwargs_for_generation(  # type: ignore[misc]
            inputs_tensor, model_kwargs, *args, **kwargs
        )
        if shared is not None:
            values["encoder_outputs"] = unpacked(values["encoder_outputs"], places)
        mask = getattr(values["encoder_outputs"], "attention_mask", None)
        if mask is not None:
            values["attention_mask"] = mask
        for name in ("bbox", "pixel_values", "pixel_mask", "question_ids"):
            values.pop(name, None)
        if pages is not None:
            # An attribute, no field: it stays as it is where rows are repeated.
            values["encoder_outputs"].page_ids = pages
        return values

    def _get_logits_processor(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        """Transformers', with answers kept to the page where the configuration says so."""
        if self.config.copy_answers and kwargs.get("prefix_allowed_tokens_fn") is None:
            inputs = kwargs.get("model_kwargs") or {}
            pages = getattr(inputs.get("encoder_outputs"), "page_ids", None)
            if pages is None:  # to be encoded later (`deed.Scheduler`), or encoded by the caller
                pages = page_ids(kwargs.get("encoder_input_ids"), inputs.get("bbox"))
            if pages is not None:
                copies = 1 if generation_config.num_beams > 1 else generation_config.num_return_sequences
                start = kwargs["input_ids_seq_length"]
                kwargs["prefix_allowed_tokens_fn"] = allowed_pieces(self.config, pages, start, copies)
        return super()._get_logits_processor(generation_config, *args, **kwargs)  # type: ignore[misc]


_OWN_WEIGHTS = (
    "encoder.box_embeddings.",
    "encoder.vit.",
    "encoder.visual_projection.",
    "encoder.relative_bias.",
    "encoder.cell_marks.",
)


def _config_of(path: Any, model_type: str) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    if config.model_type != model_type:
        raise ValueError(f"{path} is a {config.model_type} checkpoint, not a {model_type} one")
    return config


__all__ = ["LatrEncoder", "LatrEncoderOutput", "LatrForConditionalGeneration"]
