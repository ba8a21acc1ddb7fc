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

import functools
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration, ViTModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Stack

from deed.utils.quiet import quiet

from .configuration_latr import LatrConfig
from .packing import attention_scores_mask, follows, may_see
from .relative import PATCH, QUESTION, WORD, LatrRelativeBias
from .sharing import packed_pages, unpacked

BOX_TABLES = ("x0", "y0", "x1", "y1", "width", "height")


@dataclass
class LatrEncoderOutput(BaseModelOutput):
    """The encoder's output and the mask that goes with it.

    Attributes:
        attention_mask: `[batch, patches + text]`, 1 where there is something to read.
        question_ids: with a late question, `[batch, patches + text]`: 0 for the page, k for its k-th question.
    """

    attention_mask: torch.Tensor | None = None
    question_ids: torch.Tensor | None = None


class LatrBoxTable(nn.Embedding):
    """One coordinate's embeddings `[max_box + 1, d_model]`."""

    def __init__(self, max_box: int, width: int, scale: float) -> None:
        super().__init__(max_box + 1, width)
        self.scale = scale

    @torch.no_grad()
    def reset(self) -> None:
        """Waves of wavelengths from four pages to a fiftieth of one, with phases of their own, so that near is alike."""
        size, width = self.weight.shape
        phase = torch.empty(width).uniform_(0, 2 * math.pi)
        frequency = torch.exp(torch.empty(width).uniform_(math.log(0.25), math.log(50.0)))
        at = torch.arange(size, dtype=torch.float32)[:, None] / (size - 1)
        waves = self.scale * math.sqrt(2) * torch.sin(2 * math.pi * frequency * at + phase)
        init.copy_(self.weight, waves.to(self.weight))


class LatrBoxEmbeddings(nn.Module):
    """Boxes `[batch, length, 4]` on 0..max_box to `[batch, length, d_model]`: the sum of six tables."""

    def __init__(self, config: LatrConfig) -> None:
        super().__init__()
        for name in BOX_TABLES:
            setattr(self, name, LatrBoxTable(config.max_box, config.d_model, config.box_scale))

    def forward(self, bbox: torch.Tensor) -> torch.Tensor:
        """The sum of the six tables' rows for `bbox` `[batch, length, 4]`, integers: `[batch, length, d_model]`."""
        x0, y0, x1, y1 = bbox.unbind(-1)
        # A box given upside down would index below zero, which on a GPU is an assertion without a name.
        parts = (x0, y0, x1, y1, (x1 - x0).clamp(min=0), (y1 - y0).clamp(min=0))
        first, *others = (getattr(self, name)(part) for name, part in zip(BOX_TABLES, parts, strict=True))
        return sum(others, first)


class LatrEncoder(T5Stack):
    """T5's encoder on `[patches, text]`; its names are T5's, so a T5 checkpoint loads into it."""

    def __init__(self, config: LatrConfig) -> None:
        super().__init__(config)
        self.box_embeddings = LatrBoxEmbeddings(config)
        if config.vision_config is not None:
            vision: Any = config.vision_config
            self.vit = ViTModel(vision, add_pooling_layer=False)
            self.visual_projection = nn.Linear(vision.hidden_size, config.d_model)
        self.bias_share = 1.0  # of training steps in which the relative bias of a late question learns, too
        if config.question == "late":
            self.relative_bias = LatrRelativeBias(config.num_heads, config.box_bias)
        self.post_init()  # again: T5Stack's own came before these modules

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: Transformers is to initialize these modules as it does its own."""
        # Else it skips modules that hold no parameter themselves, T5's attention among them, which is where T5 gives
        # fresh weights their sizes: they would stay far too large to learn from.
        return False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (LatrBoxTable, LatrRelativeBias)):
            module.reset()
        elif module is getattr(self, "visual_projection", None):
            init.normal_(module.weight, std=module.in_features**-0.5)  # type: ignore[arg-type, operator, union-attr]
            init.zeros_(module.bias)  # type: ignore[arg-type, union-attr]

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        bbox: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        question_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LatrEncoderOutput:
        """
        Args:
            input_ids: `[batch, text]`; or `inputs_embeds` `[batch, text, d_model]`.
            bbox: `[batch, text, 4]` integers on 0..max_box; None: no token has a place (zeros).
            pixel_values: `[batch, channels, height, width]`; None: a batch without images.
            pixel_mask: `[batch]`, 1 for rows that have an image; None: all have.
            attention_mask: `[batch, text]`, 1 keeps.
            question_ids: `[batch, text]`, for a model with a late question: 0 for a word of the page, k for a token of its
                k-th question; None: tokens without a place (a box of zeros) are those of the only question.

        Raises:
            ValueError: boxes that do not fit the text or lie outside 0..max_box, or images for a model without a ViT.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give the encoder input_ids or inputs_embeds, one of them")
        text = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = text.shape[:2]
        if bbox is None:
            bbox = torch.zeros(batch, length, 4, dtype=torch.long, device=text.device)
        self._check_boxes(bbox, (batch, length, 4))
        text = text + self.box_embeddings(bbox)
        if attention_mask is None:
            attention_mask = torch.ones(batch, length, dtype=torch.long, device=text.device)
        if pixel_values is not None:
            patches = self.look(pixel_values)
            seen = patches.new_ones(batch, dtype=torch.bool) if pixel_mask is None else pixel_mask.to(torch.bool)
            mask = seen[:, None].expand(batch, patches.shape[1]).to(attention_mask.dtype)
            # A row without an image may carry anything in its pixels; nothing of it may reach the sum as NaN.
            patches = torch.where(seen[:, None, None], patches, torch.zeros_like(patches))
            text = torch.cat([patches, text], dim=1)
            attention_mask = torch.cat([mask, attention_mask], dim=1)
        if self.config.question == "late":
            if question_ids is None:
                question_ids = (bbox == 0).all(-1).long()
            return self._read_late(text, attention_mask, bbox, question_ids, kwargs.get("output_hidden_states", False))
        out = super().forward(inputs_embeds=text, attention_mask=attention_mask, **kwargs)
        return LatrEncoderOutput(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            attention_mask=attention_mask,
        )

    def _read_late(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor,
        bbox: torch.Tensor,
        question_ids: torch.Tensor,
        keep_states: bool = False,
    ) -> LatrEncoderOutput:
        """The blocks on a page that does not see its questions, each of which sees the page and itself."""
        patches = hidden.shape[1] - bbox.shape[1]
        question_ids = F.pad(question_ids, (patches, 0))
        sorts = torch.where(question_ids > 0, QUESTION, WORD)
        sorts[:, :patches] = PATCH
        order: Any = self.block[0].layer[0].SelfAttention.relative_attention_bias  # type: ignore[union-attr, index]
        kind = _score_type(hidden)
        # The gradient of a few hundred numbers through every pair of tokens costs a third of a step.
        learns = not self.training or self.bias_share >= 1 or float(torch.rand(())) < self.bias_share
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            bias = self.relative_bias(order.weight.to(kind), sorts, F.pad(bbox, (0, 0, patches, 0)))
        seen = may_see(question_ids, question_ids, attention_mask)
        bias = bias.masked_fill(~seen[:, None], torch.finfo(kind).min).contiguous()
        hidden, states = self.dropout(hidden), []
        for block in self.block:
            states.append(hidden)
            hidden = block(hidden, None, bias)[0]  # type: ignore[operator]
        hidden = self.dropout(self.final_layer_norm(hidden))
        return LatrEncoderOutput(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if keep_states else None,  # type: ignore[arg-type]
            attention_mask=attention_mask,
            question_ids=question_ids,
        )

    def look(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images to patch embeddings `[batch, 1 + patches, d_model]`, the class token first."""
        if self.config.vision_config is None:
            raise ValueError("this model has no ViT (vision_config is None); leave pixel_values out")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            features = self.vit(pixel_values).last_hidden_state
        projected = self.visual_projection(features)
        vision: Any = self.config.vision_config
        boxes = patch_boxes(_pair(vision.image_size), _pair(vision.patch_size), self.config.max_box).to(
            projected.device
        )
        return projected + self.box_embeddings(boxes[None])

    def _check_boxes(self, bbox: torch.Tensor, shape: tuple[int, int, int]) -> None:
        if tuple(bbox.shape) != shape:
            raise ValueError(f"bbox must be {list(shape)} to fit the text, got {list(bbox.shape)}")
        # On a GPU this would make the host wait; the embedding there asserts by itself.
        if bbox.device.type == "cpu" and bbox.numel() and not (bbox.min() >= 0 and bbox.max() <= self.config.max_box):
            raise ValueError(f"bbox must lie on 0..{self.config.max_box}; scale pixels by the page's width and height")


def _score_type(hidden: torch.Tensor) -> torch.dtype:
    """The dtype that attention scores have."""
    return (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    )


@functools.cache
def patch_boxes(image: tuple[int, int], cell: tuple[int, int], max_box: int) -> torch.Tensor:
    """`[1 + patches, 4]`: the whole page for the class token, then the cells row by row.

    Args:
        image: height and width of the pictures, in pixels.
        cell: height and width of a patch, in pixels.
        max_box: the coordinate of the right and bottom edge.
    """
    rows, columns = image[0] // cell[0], image[1] // cell[1]
    boxes = [[0, 0, max_box, max_box]]
    for r in range(rows):
        for c in range(columns):
            corners = (c / columns, r / rows, (c + 1) / columns, (r + 1) / rows)
            boxes.append([round(max_box * value) for value in corners])
    return torch.tensor(boxes)


def _pair(size: Any) -> tuple[int, int]:
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)


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

        With `encoder_outputs` given, `attention_mask` is that of the whole encoder sequence `[batch, patches + text]`,
        unless they carry their own (`LatrEncoderOutput`).

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
        return values


_OWN_WEIGHTS = ("encoder.box_embeddings.", "encoder.vit.", "encoder.visual_projection.", "encoder.relative_bias.")


def _config_of(path: Any, model_type: str) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    if config.model_type != model_type:
        raise ValueError(f"{path} is a {config.model_type} checkpoint, not a {model_type} one")
    return config


__all__ = ["LatrBoxEmbeddings", "LatrEncoder", "LatrEncoderOutput", "LatrForConditionalGeneration"]
