"""The best token of a float32 head without reading all of it: an int8 copy narrows the vocabulary down to the tokens that
rounding leaves possible, and only those get their exact logits.

The float32 head of T5-base has 99 MB, as much as three of its layers, and greedy search wants one number of it. Each logit
of the copy comes with a bound on its error (`CheapMatrix`), so a token whose upper bound is below another's lower bound is
not the best one. One token left: that is it. Several: their logits in float64, and the best of these if it leads by
more than the head's own rounding. Otherwise, and where too many are left, the whole head. So tokens are those
of the whole head bit for bit; what it costs is memory, a quarter of the head's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deed.errors import DeedConfigError
from deed.exits.head_rows import copies_of
from deed.exits.heads import DirectExits
from deed.families.parts import plain
from deed.kernels.int8 import IntMM, kernel
from deed.policies.exit_checks.int8_copy import LARGE, CheapMatrix, has_int8

CANDIDATES = 32  # per row, more than these: the whole head


class GreedyHead:
    """The head of one generation, where only its best token is wanted.

    Args:
        exits: of the generation; its head is what this one agrees with.
        weight: `[vocab, d_model]` float32.
        bias: `[vocab]` or None.
        scale: the head's factor on the features.
        copy: int8, of `scale * weight`, `careful`.

    Attributes:
        whole_rows: rows for which the whole head had to be run.
    """

    def __init__(
        self, exits: DirectExits, weight: torch.Tensor, bias: torch.Tensor | None, scale: float, copy: CheapMatrix
    ) -> None:
        self.exits, self.weight, self.bias, self.scale, self.copy = exits, weight, bias, scale, copy
        self.bias_rounding = 0.0 if bias is None else 4 * torch.finfo(torch.float32).eps * float(bias.abs().max())
        self.whole_rows = 0

    def best(self, features: torch.Tensor) -> torch.Tensor:
        """`[r]` long: the argmax of the head's logits, the first where several are the same.

        Args:
            features: `[r, d_model]`, what the head gets.
        """
        approximate = self.copy(features)  # [r, vocab]
        if self.bias is not None:
            approximate += self.bias
        rounding = self.copy.rounding(features) + self.bias_rounding  # [r]
        error = torch.outer(features.norm(dim=-1), self.copy.errors)  # [r, vocab]
        error += (self.copy.error_of_x(features) + rounding)[:, None]
        least = (approximate - error).amax(-1, keepdim=True)
        possible = (approximate.add_(error) >= least).nonzero()  # [n, 2], row after row
        count = len(features)
        if len(possible) == count and count == 1:
            return possible[:, 1]
        found = self._decided(features, possible, rounding.tolist())
        unknown = [r for r, token in enumerate(found) if token is None]
        if not unknown:
            return torch.tensor(found)
        self.whole_rows += len(unknown)
        whole = self.exits.logits_of(features if len(unknown) == count else features[unknown]).argmax(-1)
        for r, token in zip(unknown, whole.tolist(), strict=True):
            found[r] = token
        return torch.tensor(found)

    def _decided(self, features: torch.Tensor, possible: torch.Tensor, rounding: list[float]) -> list[int | None]:
        """The best of each row's possible tokens; None where they are too many or too close."""
        by_row: list[list[int]] = [[] for _ in range(len(features))]
        rows, tokens = possible.T.tolist()
        for r, token in zip(rows, tokens, strict=True):
            by_row[r].append(token)
        asked = [r for r, some in enumerate(by_row) if 1 < len(some) <= CANDIDATES]
        found = [some[0] if len(some) == 1 else None for some in by_row]
        if not asked:
            return found
        picked = torch.tensor([token for r in asked for token in by_row[r]])
        of_row = torch.tensor([r for r in asked for _ in by_row[r]])
        exact = (self.weight[picked].double() * features[of_row].double()).sum(-1).mul_(self.scale)
        if self.bias is not None:
            exact += self.bias[picked]
        values = iter(exact.tolist())
        for r in asked:
            ranked = sorted(((next(values), token) for token in by_row[r]), reverse=True)
            # The head's own two logits may each be off by (d + 2) u |w||x|, of which `rounding` is eight times as much.
            if ranked[0][0] - ranked[1][0] > rounding[r] / 4:
                found[r] = ranked[0][1]
        return found


def greedy_head(model: Any, exits: Any) -> GreedyHead | None:
    """The head for greedy search, or None where its own product is as quick: small heads, int8 ones, other dtypes and devices.

    Args:
        model: a deed model.
        exits: of the generation.
    """
    head = model.get_output_embeddings()
    if type(exits) is not DirectExits or type(head) is not nn.Linear or not plain([head]):
        return None
    if head.weight.dtype != torch.float32 or head.weight.numel() < LARGE or not has_int8(head.weight.device):
        return None
    if torch.get_float32_matmul_precision() != "highest":  # then the head's own product rounds further than the bound
        return None
    try:
        weight, bias, scale = model.deed_family.head_parts(model)
    except (NotImplementedError, DeedConfigError):
        return None
    if weight is not head.weight or kernel()[0] is IntMM:  # which has no fast path on some machines
        return None
    weight = weight.detach()
    sources = [weight] if bias is None else [weight, bias]
    copy = copies_of(model).get(("int8", True, scale), sources, lambda: CheapMatrix(weight * scale, careful=True))
    return GreedyHead(exits, weight, bias, scale, copy)
