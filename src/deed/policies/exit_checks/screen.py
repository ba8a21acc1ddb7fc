"""`{"name": "screen"}`: the first look goes through a cheap copy of the head: int8, and of low rank where asked for.

Low rank: the head's weight W (`[V, d]`) is approximated by (W up) down, down `[r, d]` and up `[d, r]`. Without data they
are the leading right singular vectors of W about its mean (a constant on all logits changes no probability), from the
d x d Gram matrix. With data (`deed.fit_screen`) they minimise the error on the features that exits really see. Alone, low
rank underrates the best token; so the `refine` best tokens of the look get their exact logits, from as many rows of W.
"""

from __future__ import annotations

from typing import Any

import torch

from deed.errors import DeedConfigError
from deed.exits.heads import DirectExits

from ..policy import ExitPolicy
from ..query import Ask
from .bounds import bounded
from .int8_copy import CheapMatrix, built, has_int8
from .two_stage import FirstLook, loosen


class Screen:
    """A first look through a cheap copy of the head.

    `bound=True` equals plain asking: the look's error is bounded, and only a no that no error can explain is a no (a
    confidence within rounding of the threshold may fall either way, as it may in batches of another size).
    Otherwise it approximates in one direction: a row may stay where plain asking lets it leave, never the reverse.
    `confirm=False` approximates: the look decides and answers (its logits are exact for the `refine` best tokens only), and
    the exact head is spared altogether before the last layer. For rank None; at low rank answers change.

    Args:
        model: a deed model.
        rank: width of the low-rank copy; None keeps all of d_model.
        refine: tokens looked at exactly after the first look.
        slack: how much lower the first look's thresholds are.
        bound, confirm: see above.
    """

    def __init__(self, model: Any, rank: int | None, refine: int, slack: float, bound: bool, confirm: bool) -> None:
        self.exits, self.slack, self.bound = DirectExits(model), slack, bound
        self.equals_plain = bound
        self.confirms = confirm
        self.weight, self.bias, self.scale, quantised = head_parts(model)
        self.refine = min(refine, len(self.weight))
        if quantised and (bound or rank is None):
            raise DeedConfigError(
                'asking "screen": the head is in int8 already, so a copy helps only if it is of low rank: '
                'give a rank, or use asking="plain"'
            )
        if bound and not (has_int8(self.weight.device) and self.weight.dtype in (torch.float32, torch.float64)):
            raise DeedConfigError(
                'asking "screen": bound=True needs a float32 model on a CPU with PyTorch\'s int8 kernels, not '
                f"{self.weight.dtype} on {self.weight.device.type}; leave bound out"
            )
        self.down: torch.Tensor | None = None
        self.mean: torch.Tensor | None = None
        sources = [self.weight] if self.bias is None else [self.weight, self.bias]
        if rank is None:
            self.cheap = built(model, ("int8", bound, self.scale), sources, self._whole)
            return
        if rank >= self.weight.shape[1]:
            raise DeedConfigError(
                f'asking "screen": rank must be below d_model, which is {self.weight.shape[1]}, got {rank}; '
                "None keeps all of it"
            )
        learned = None
        if "screen" in model.deed_exits:
            learned = model.deed_exits["screen"]
            if len(learned.down) < rank:
                raise DeedConfigError(
                    f'asking "screen": rank is {rank}, but deed.fit_screen was run for rank {len(learned.down)}; '
                    "fit again or ask for less"
                )
            sources += [learned.down, learned.up]
        self.cheap, self.down, self.mean = built(
            model, ("rank", rank, self.scale), sources, lambda: self._low_rank(rank, learned)
        )

    def _whole(self) -> CheapMatrix:
        return CheapMatrix(self.weight.double() * self.scale, careful=self.bound)

    def _low_rank(self, rank: int, learned: Any) -> tuple[CheapMatrix, torch.Tensor, torch.Tensor]:
        weight = self.weight.float() * self.scale
        mean = weight.mean(0)
        if learned is None:
            down = principal_directions(weight, rank)
            up = down.T
        else:
            down, up = learned.down[:rank].float(), learned.up[:, :rank].float()
        return CheapMatrix((weight - mean) @ up), down.contiguous(), mean[None]

    def begin(self) -> Screen:
        return self

    def serves(self, ask: Ask) -> bool:
        return True

    def policy(self, policy: ExitPolicy) -> ExitPolicy:
        return bounded(policy) if self.bound else loosen(policy, self.slack)

    def logits(self, ask: FirstLook) -> torch.Tensor:
        features = self.exits.features(ask.depth, ask.hidden)
        x = features if features.dtype == torch.float32 else features.float()
        if self.down is None:
            logits = self.cheap(x)
        else:
            logits = self.cheap(torch.nn.functional.linear(x, self.down))
            logits += torch.nn.functional.linear(x, self.mean)  # type: ignore[arg-type]
        if self.bias is not None:
            logits += self.bias
        if self.bound:
            ask.rounding = self._rounding(x)
            ask.error = self.cheap.error(x) + ask.rounding
        if self.refine:
            seen = logits if ask.allowed is None else logits.masked_fill(~ask.allowed, -torch.inf)
            ask.refined = seen.topk(self.refine, dim=-1, sorted=False).indices
            exact = gathered_logits(self.weight, self.bias, self.scale, features, ask.refined)
            logits.scatter_(1, ask.refined, exact.to(logits.dtype))
        if not self.confirms and exact_dtype(self.weight) != logits.dtype:
            logits = logits.to(exact_dtype(self.weight))
        return logits

    def _rounding(self, x: torch.Tensor) -> torch.Tensor:
        """`[r]`: how far floating point may move a logit, here and in the exact head: the usual (d + c) u |w||x|."""
        unit = torch.finfo(torch.float32).eps
        largest = x.norm(dim=-1) * self.cheap.largest_norm
        if self.bias is not None:
            largest = largest + self.bias.abs().max().float()
        return largest * (4 * unit * (x.shape[-1] + 16))


def head_parts(model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float, bool]:
    """`DecoderFamily.head_parts`, and whether the head is a quantised one, whose weight is then written out once."""
    weight, bias, scale = model.deed_family.head_parts(model)
    if not weight.is_meta:
        return weight.detach(), bias, scale, False
    head = model.get_output_embeddings()
    return built(model, "written out", [weight], head.dequantize), bias, scale, True


def exact_dtype(weight: torch.Tensor) -> torch.dtype:
    """What the exact head's logits come in: half precision is widened."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def principal_directions(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """`[rank, d]` orthonormal: the leading right singular vectors of `weight` `[V, d]` about its mean."""
    centred = weight - weight.mean(0)
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())
    return vectors.flip(-1)[:, :rank].T.to(weight.dtype)


def gathered_logits(
    weight: torch.Tensor, bias: torch.Tensor | None, scale: float, features: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Exact logits `[r, k]` of `tokens` `[r, k]` alone, from features `[r, d]`."""
    if scale != 1:
        features = features * scale
    rows = torch.nn.functional.embedding(tokens, weight)  # [r, k, d]
    logits = torch.matmul(rows, features[:, :, None])[:, :, 0]
    return logits if bias is None else logits + bias[tokens]
