"""Places on a page as embeddings: LaTr's six tables (x0, y0, x1, y1, width, height on 0..1000), and the boxes of patches."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn
from transformers import initialization as init

from .configuration_latr import LatrConfig

BOX_TABLES = ("x0", "y0", "x1", "y1", "width", "height")


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
