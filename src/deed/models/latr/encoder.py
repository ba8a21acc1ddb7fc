"""LaTr++'s encoder: T5's, on patches, question and OCR words with their boxes as one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Stack

from .boxes import LatrBoxEmbeddings, LatrBoxTable, patch_boxes
from .cells import ASKED, cells_of, pieces_asked_for
from .configuration_latr import LatrConfig
from .packing import may_see
from .relative import PATCH, QUESTION, WORD, LatrRelativeBias


class LatrCellMarks(nn.Embedding):
    """What is added to the states of cells that a question asks for, by how it asks: `[ASKED, d_model]`, zeros at first."""

    @torch.no_grad()
    def reset(self) -> None:
        """Zeros."""
        init.zeros_(self.weight)


@dataclass
class LatrEncoderOutput(BaseModelOutput):
    """The encoder's output and the mask that goes with it. With `cell_bias` more than patches and text: behind them, marked,
    what questions ask for (`cells.pieces_asked_for`).

    Attributes:
        attention_mask: `[batch, patches + text + asked]`, 1 where there is something to read.
        question_ids: with a late question, of that shape: 0 for the page, k for its k-th question and what that asks for.
    """

    attention_mask: torch.Tensor | None = None
    question_ids: torch.Tensor | None = None


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
            self.relative_bias = LatrRelativeBias(config.num_heads, config.box_bias, config.cell_bias)
        if config.cell_bias:
            self.cell_marks = LatrCellMarks(ASKED, config.d_model)
        self.post_init()  # again: T5Stack's own came before these modules

    def add_cells(self) -> None:
        """See `LatrForConditionalGeneration.add_cells`."""
        self.config.cell_bias = True
        self.relative_bias.add_cells()
        self.cell_marks = LatrCellMarks(ASKED, self.config.d_model).to(self.embed_tokens.weight)
        self.cell_marks.reset()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: Transformers is to initialize these modules as it does its own."""
        # Else it skips modules that hold no parameter themselves, T5's attention among them, which is where T5 gives
        # fresh weights their sizes: they would stay far too large to learn from.
        return False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (LatrBoxTable, LatrRelativeBias, LatrCellMarks)):
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
            return self._read_late(
                text, attention_mask, bbox, question_ids, input_ids, kwargs.get("output_hidden_states", False)
            )
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
        input_ids: torch.Tensor | None,
        keep_states: bool = False,
    ) -> LatrEncoderOutput:
        """The blocks on a page that does not see its questions, each of which sees the page and itself."""
        patches = hidden.shape[1] - bbox.shape[1]
        question_ids = F.pad(question_ids, (patches, 0))
        sorts = torch.where(question_ids > 0, QUESTION, WORD)
        sorts[:, :patches] = PATCH
        bbox = F.pad(bbox, (0, 0, patches, 0))
        cells = None
        if self.config.cell_bias:
            pieces = None if input_ids is None else F.pad(input_ids, (patches, 0))
            cells = cells_of(bbox, sorts == WORD, pieces, question_ids)
        order: Any = self.block[0].layer[0].SelfAttention.relative_attention_bias  # type: ignore[union-attr, index]
        kind = _score_type(hidden)
        # The gradient of a few hundred numbers through every pair of tokens costs a third of a step.
        learns = not self.training or self.bias_share >= 1 or float(torch.rand(())) < self.bias_share
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            bias = self.relative_bias(order.weight.to(kind), sorts, bbox, cells, question_ids)
        seen = may_see(question_ids, question_ids, attention_mask)
        bias = bias.masked_fill(~seen[:, None], torch.finfo(kind).min).contiguous()
        hidden, states = self.dropout(hidden), []
        for block in self.block:
            states.append(hidden)
            hidden = block(hidden, None, bias)[0]  # type: ignore[operator]
        hidden = self.dropout(self.final_layer_norm(hidden))
        if cells is not None and cells.asked is not None:
            # Once more, for their questions alone and marked: which of many like it an answer goes on with.
            places, numbers, kinds = pieces_asked_for(cells)
            marked = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[2])) + self.cell_marks(kinds)
            hidden, question_ids = torch.cat([hidden, marked], 1), torch.cat([question_ids, numbers], 1)
            attention_mask = torch.cat([attention_mask, (numbers > 0).to(attention_mask.dtype)], 1)
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
        boxes = patch_boxes(_two(vision.image_size), _two(vision.patch_size), self.config.max_box).to(projected.device)
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


def _two(size: Any) -> tuple[int, int]:
    """Height and width, of a configuration that may have one number for both."""
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)
