"""OFA's encoder: image patches, then text, as one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.output_capturing import capture_outputs

from .configuration_ofa import OFAConfig
from .layers import OFAAttention, OFAEncoderLayer, OFAPreTrainedModel, OFARelativeTable, masked
from .positions import grid_ids, image_relative, look_up, position_scores, token_relative
from .stem import OFAStem

TEXT, IMAGE = 0, 1  # rows of the type embedding


@dataclass
class OFAEncoderOutput(BaseModelOutput):
    """The encoder's output and what the decoder needs beside it.

    Attributes:
        attention_mask: `[batch, patches + text]` long, 1 where there is something to read.
        position_embeddings: `[batch, patches + text, d_model]` after the encoder's position norms, the same in every row.
        code_masks: `[batch]` bool, rows whose decoder writes an image as codes; None: no row. Not the encoder's: it is
            put here by `generate()`, so that it goes where the rows go.
    """

    attention_mask: torch.Tensor | None = None
    position_embeddings: torch.Tensor | None = None
    code_masks: torch.Tensor | None = None


class OFAEncoder(OFAPreTrainedModel):
    """Patches and text to `OFAEncoderOutput`."""

    _can_record_outputs = {"hidden_states": OFAEncoderLayer, "attentions": OFAAttention}  # noqa: RUF012

    def __init__(self, config: OFAConfig) -> None:
        super().__init__(config)
        width, heads = config.d_model, config.encoder_attention_heads
        side = 2 * config.image_bucket_size - 1
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.pos_scaling = float(width / heads * config.attn_scale_factor) ** -0.5
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        self.type_embedding = nn.Embedding(2, width) if config.add_type_embedding else None
        self.embed_images = OFAStem(config)
        self.image_proj = nn.Linear((config.stem_widths or [])[-1], width)
        self.patch_layernorm_embedding = nn.LayerNorm(width) if config.patch_layernorm_embedding else None
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        self.layers = nn.ModuleList([OFAEncoderLayer(config, i) for i in range(config.encoder_layers)])
        self.layer_norm = nn.LayerNorm(width)
        self.token_rel_pos_table_list = nn.ModuleList(
            [OFARelativeTable(2 * config.token_bucket_size - 1, heads) for _ in self.layers]
        )
        self.image_rel_pos_table_list = nn.ModuleList([OFARelativeTable(side * side + 3, heads) for _ in self.layers])
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        patch_images: torch.Tensor | None = None,
        patch_masks: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> OFAEncoderOutput:
        """
        Args:
            input_ids: `[batch, text]`; or `inputs_embeds` `[batch, text, d_model]`.
            patch_images: `[batch, 3, height, width]`; None: no row has an image.
            patch_masks: `[batch]` bool, which rows have an image; None: all.
            attention_mask: `[batch, text]`, 1 keeps; None: all but the pad token.

        Raises:
            ValueError: both or neither of ids and embeddings, text that is too long, images that do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give the encoder input_ids or inputs_embeds, one of them")
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = embedded.shape[:2]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids are {length} long, more than max_position_embeddings {self.config.max_position_embeddings}"
            )
        if attention_mask is not None:
            keep = attention_mask.to(torch.bool)
        elif input_ids is not None:
            pad: Any = self.config.pad_token_id
            keep = input_ids.ne(pad)
        else:
            keep = torch.ones(batch, length, dtype=torch.bool, device=embedded.device)
        raw = self.embed_positions(torch.arange(length, device=embedded.device))[None]
        text = self._embed(embedded * self.embed_scale, raw, TEXT, self.layernorm_embedding)
        positions, ids = self.pos_ln(raw), None
        if patch_images is not None:
            features, seen = self.look(patch_images, patch_masks, batch)
            ids, raw = self._grid(*features.shape[-2:])
            projected = self.image_proj(features.flatten(2).transpose(1, 2)) * self.embed_scale
            image = self._embed(projected, raw, IMAGE, self.patch_layernorm_embedding)
            text = torch.cat([image, text], dim=1)
            positions = torch.cat([self.image_pos_ln(raw), positions], dim=1)
            keep = torch.cat([seen[:, None].expand(batch, image.shape[1]), keep], dim=1)
        hidden = text.masked_fill(~keep[..., None], 0.0)

        absolute = position_scores(
            self.pos_q_linear(positions),
            self.pos_k_linear(positions),
            self.config.encoder_attention_heads,
            self.pos_scaling,
        )
        config = self.config
        tokens = token_relative(0, length, config, hidden.device)
        patches = None if ids is None else image_relative(ids, ids, config.image_bucket_size)
        visible = None if bool(keep.all()) else keep[:, None, None, :]
        for i, layer in enumerate(self.layers):
            if self.training and self.config.encoder_layerdrop and torch.rand(()) < self.config.encoder_layerdrop:
                continue
            hidden = layer(hidden, masked(self._bias(i, absolute, tokens, patches), visible), **kwargs)
        return OFAEncoderOutput(
            last_hidden_state=self.layer_norm(hidden),
            attention_mask=keep.long(),
            position_embeddings=positions.expand(batch, -1, -1),
        )

    def look(
        self, patch_images: torch.Tensor, patch_masks: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The stem on the rows that have an image: features `[batch, channels, h, w]`, zeros elsewhere, and which have
        one, `[batch]` bool. Rows without any are kept from the stem: batch norms would count them in training.

        Args:
            patch_images: `[batch, 3, height, width]`, normalized pixels.
            patch_masks: `[batch]` bool, which rows have an image; None: all.
            batch: how many rows there are.

        Raises:
            ValueError: tensors of another shape.
        """
        if patch_images.ndim != 4 or patch_images.shape[0] != batch:
            raise ValueError(f"patch_images must be [{batch}, 3, height, width], got {list(patch_images.shape)}")
        if patch_masks is None:
            patch_masks = torch.ones(batch, dtype=torch.bool, device=patch_images.device)
        seen = patch_masks.to(torch.bool)
        if tuple(seen.shape) != (batch,):
            raise ValueError(f"patch_masks must be [{batch}], got {list(seen.shape)}")
        if bool(seen.all()):
            return self.embed_images(patch_images), seen
        if not bool(seen.any()):
            h, w = (-(-size // 16) for size in patch_images.shape[-2:])
            return patch_images.new_zeros(batch, self.image_proj.in_features, h, w), seen
        some = self.embed_images(patch_images[seen])
        features = some.new_zeros(batch, *some.shape[1:])
        features[seen] = some
        return features, seen

    def _grid(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Position ids `[patches]` of a grid and its position embeddings `[1, patches, d_model]`, before their norm."""
        bucket, table = self.config.image_bucket_size, self.embed_image_positions
        device = table.weight.device
        ids = grid_ids(height, width, bucket, device)
        side = self.config.orig_patch_image_size // 16
        if not self.config.interpolate_position or height * width <= side * side:
            return ids, table(ids)[None]
        known = table(grid_ids(side, side, bucket, device)).T.reshape(1, -1, side, side)
        grown = nn.functional.interpolate(known, size=(height, width), mode="bilinear")
        return ids, grown.flatten(2).transpose(1, 2)

    def _embed(self, x: torch.Tensor, positions: torch.Tensor, kind: int, norm: nn.Module | None) -> torch.Tensor:
        if self.config.entangle_position_embedding:
            x = x + positions
        if self.type_embedding is not None:
            x = x + self.type_embedding.weight[kind]
        if norm is not None:
            x = norm(x)
        return nn.functional.dropout(x, self.config.dropout, self.training)

    def _bias(
        self, layer: int, absolute: torch.Tensor, tokens: torch.Tensor, patches: torch.Tensor | None
    ) -> torch.Tensor:
        """The absolute bias with a layer's relative one, which only text to text and image to image have."""
        text, image = self.token_rel_pos_table_list[layer], self.image_rel_pos_table_list[layer]
        bias, start = absolute.clone(), absolute.shape[-1] - tokens.shape[-1]
        bias[:, :, start:, start:] += look_up(text, tokens)  # type: ignore[arg-type]
        if patches is not None:
            bias[:, :, :start, :start] += look_up(image, patches)  # type: ignore[arg-type]
        return bias


__all__ = ["OFAEncoder", "OFAEncoderOutput"]
