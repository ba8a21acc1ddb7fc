"""One pass through a stack of encoder layers: the mask that they share, and which tokens are computed at all.

In a batch of texts of unequal length, padding can be more than half of the tokens. A token that no token looks at says
nothing to anybody, so the layers run on the others alone, side by side in one row, and attention goes row by row of the
batch: a row is then computed as it is alone, which int8 linears show bit for bit. Behind the last layer, padding has states
of zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

Places = slice | torch.Tensor


class Reading:
    """See above. One per stack and pass.

    Args:
        packs: leave padding out; every layer of the stack has to know of it.
    """

    def __init__(self, packs: bool) -> None:
        self.packs = packs
        self.shape: tuple[int, int] = (0, 0)  # [batch, tokens] of the padded input
        self.cells: torch.Tensor | None = None  # of the flattened input, the tokens that are computed; None: all
        self.rows: list[
            tuple[int, int, Places]
        ] = []  # per row, where its tokens are side by side, and where in the batch
        self._combined: tuple[object, object, torch.Tensor | None] | None = None
        self._cut: tuple[torch.Tensor, list[torch.Tensor | None]] | None = None

    def begin(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Takes in the input of the first layer, `[batch, tokens, width]`, and its mask, and answers what the layers run on,
        perhaps `[1, cells, width]`."""
        self.shape = (hidden.shape[0], hidden.shape[1])
        if not self.packs or mask is None or hidden.device.type != "cpu":
            return hidden
        seen = _seen(mask, self.shape)
        if seen is None:
            return hidden
        counts = seen.sum(1).tolist()
        if not all(counts) or sum(counts) == seen.numel():
            return hidden
        start = 0
        for row, count in enumerate(counts):
            places = seen[row].nonzero()[:, 0]
            first = int(places[0])
            run = int(places[-1]) - first + 1 == count
            self.rows.append((start, start + count, slice(first, first + count) if run else places))
            start += count
        self.cells = seen.flatten().nonzero()[:, 0]
        return hidden.flatten(0, 1).index_select(0, self.cells)[None]

    def end(self, hidden: torch.Tensor) -> torch.Tensor:
        """What comes out of the last layer, `[batch, tokens, width]`."""
        if self.cells is None:
            return hidden
        whole = hidden.new_zeros(self.shape[0] * self.shape[1], hidden.shape[-1])
        return whole.index_copy_(0, self.cells, hidden[0]).view(*self.shape, -1)

    def scores_mask(self, bias: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Bias and mask as one, made once for all layers that share them."""
        if bias is None:
            return mask
        if self._combined is None or self._combined[0] is not bias or self._combined[1] is not mask:
            self._combined = (bias, mask, _combine(bias, mask))
        return self._combined[2]

    def length(self, hidden: torch.Tensor) -> int:
        """Tokens of a row, padding included, while the layers run on `hidden`."""
        return hidden.shape[1] if self.cells is None else self.shape[1]

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """Attention of `[batch, heads, tokens, head_dim]`, or with padding left out `[1, heads, cells, head_dim]`; heads
        come out side by side, `[batch, tokens, heads * head_dim]`.

        Args:
            q: queries.
            k: keys.
            v: values.
            mask: of the padded input, bool or added to the scores.
            scale: factor on the scores.
        """
        attend = nn.functional.scaled_dot_product_attention
        if self.cells is None:
            return attend(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)
        if self._cut is None or self._cut[0] is not mask:
            assert mask is not None
            self._cut = (mask, [_part(mask, row, places) for row, (_, _, places) in enumerate(self.rows)])
        found = [
            attend(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], attn_mask=part, scale=scale).transpose(1, 2)
            for (a, b, _), part in zip(self.rows, self._cut[1], strict=True)
        ]
        return torch.cat(found, 1).flatten(2)


def _combine(bias: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return bias.contiguous()
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return bias + mask


def _seen(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor | None:
    """`[batch, tokens]` bool: the tokens that some token looks at; None where the mask is not one per row."""
    if mask.ndim != 4 or (mask.shape[0], mask.shape[3]) != tuple(shape):
        return None
    of_head = mask[:, 0]
    seen = of_head if mask.dtype == torch.bool else of_head > torch.finfo(mask.dtype).min / 2
    return seen.any(1)


def _part(mask: torch.Tensor, row: int, places: Places) -> torch.Tensor | None:
    """The mask `[1, heads, n, n]` among the tokens of one row; None where all see all."""
    one = mask[row if mask.shape[0] > 1 else 0][None]
    one = one[..., places] if isinstance(places, slice) else one.index_select(3, places)
    if one.shape[2] > 1:
        one = one[:, :, places] if isinstance(places, slice) else one.index_select(2, places)
    if one.dtype == torch.bool and bool(one.all()):
        return None
    return one
