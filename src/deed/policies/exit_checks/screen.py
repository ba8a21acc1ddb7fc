"""`{"name": "screen"}`: approximate logits from a cheap copy of the head: int8, and of low rank where asked for.

Low rank: the head's weight W (`[V, d]`) is approximated by (W up) down, down `[r, d]` and up `[d, r]`. Without data they
are the leading right singular vectors of W about its mean (a constant on all logits changes no probability), from the
d x d Gram matrix. With data (`deed.fit_screen`) they minimize the error on the features that exits really see. Alone, low
rank underrates the best token; so the `refine` best tokens get their exact logits, from as many rows of W.

With `reuse` (also named `{"name": "shortlist"}`), only the first exit of a step is screened like that, or by the exact head
(`first="exact"`); later exits of the step compute the exact logits of the tokens refined there, and of no others.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch

from deed.errors import DeedConfigError
from deed.exits.head_rows import copies_of, gathered_logits, head_parts, principal_directions
from deed.exits.heads import DirectExits

from ..policy import ExitPolicy
from ..query import ExitDecision, ExitQuery
from .bounds import bounded
from .int8_copy import CheapMatrix, has_int8
from .two_stage import Approximation


class Screen:
    """An approximate head: a cheap copy of the exact one.

    `bound=True` equals the plain check: the error of the logits is bounded, and a row stays only where no error could let it
    leave (a confidence within rounding of the threshold may fall either way, as it may in batches of another size).
    Otherwise it approximates in one direction: a row may stay where the plain check lets it leave, never the reverse.

    Args:
        model: a deed model.
        rank: width of the low-rank copy; None keeps all of d_model.
        refine: tokens per row that get exact logits; with `reuse` the shortlist of later exits.
        reuse: later exits of a step look only at the tokens refined at the first. Confidence over these is never below that
            over all, so as long as the best token is among them, no row that may leave is missed.
        bound: see above; needs a float32 model on a CPU with int8 kernels.
        first: "screen", or with `reuse` "exact": what the first exit of a step is checked by.

    Raises:
        DeedConfigError: an option that this model's head cannot serve.
    """

    def __init__(
        self,
        model: Any,
        rank: int | None = None,
        refine: int = 32,
        bound: bool = False,
        reuse: bool = False,
        first: str = "screen",
    ) -> None:
        self.exits = DirectExits(model)
        self.bound = self.equals_plain = bound
        self.weight, self.bias, self.scale, quantized = head_parts(model)
        self.refine, self.reuse = min(refine, len(self.weight)), reuse
        self.rows: torch.Tensor | None = None  # [n], rows that have a shortlist at this step
        self.tokens: torch.Tensor | None = None  # [n, refine]
        self.last: tuple[ExitQuery, ExitDecision] | None = None  # the last query and its decision
        self.down: torch.Tensor | None = None
        self.mean: torch.Tensor | None = None
        self.cheap: CheapMatrix | None = None
        if first == "exact":
            return
        if quantized and (bound or rank is None):
            raise DeedConfigError(
                'exit_check "screen": the head is in int8 already, so a copy helps only if it is of low rank: '
                'give a rank, or use exit_check="plain"'
            )
        if bound and not (has_int8(self.weight.device) and self.weight.dtype in (torch.float32, torch.float64)):
            raise DeedConfigError(
                'exit_check "screen": bound=True needs a float32 model on a CPU with PyTorch\'s int8 kernels, not '
                f"{self.weight.dtype} on {self.weight.device.type}; leave bound out"
            )
        copies = copies_of(model)
        sources = [self.weight] if self.bias is None else [self.weight, self.bias]
        if rank is None:
            self.cheap = copies.get(
                ("int8", bound, self.scale),
                sources,
                lambda: CheapMatrix(self.weight * self.scale, careful=bound),
            )
            return
        if rank >= self.weight.shape[1]:
            raise DeedConfigError(
                f'exit_check "screen": rank must be below d_model, which is {self.weight.shape[1]}, got {rank}; '
                "None keeps all of it"
            )
        learned = None
        if "screen" in model.deed_exits:
            learned = model.deed_exits["screen"]
            if len(learned.down) < rank:
                raise DeedConfigError(
                    f'exit_check "screen": rank is {rank}, but deed.fit_screen was run for rank {len(learned.down)}; '
                    "fit again or ask for less"
                )
            sources += [learned.down, learned.up]
        self.cheap, self.down, self.mean = copies.get(
            ("rank", rank, self.scale), sources, lambda: self._low_rank(rank, learned)
        )

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
        """For one generation: a shortlist of its own."""
        if not self.reuse:
            return self
        fresh = copy(self)
        fresh.rows = fresh.tokens = fresh.last = None
        return fresh

    def serves(self, query: ExitQuery) -> bool:
        """Always, save for a shortlist that the exact head has to make first."""
        if self.reuse:
            last, self.last = self.last, None
            if last is None or query.exit_index <= last[0].exit_index:  # a new step
                self.rows = self.tokens = None
            elif last[1].logits is not None:
                self._relist(*last)
        return self.cheap is not None or self.tokens is not None

    def policy(self, policy: ExitPolicy) -> ExitPolicy:
        """Rows that might leave: where errors are bounded, those whose confidence could reach the threshold."""
        return bounded(policy) if self.bound else policy

    def approximation(self, query: ExitQuery) -> Approximation:
        """Logits of the copy, exact for the refined tokens; of tokens not on a shortlist -inf."""
        features = self.exits.features(query.depth, query.hidden) if query.features is None else query.features()
        if self.tokens is not None:
            return Approximation(self._shortlisted(features, query))
        x = features if features.dtype == torch.float32 else features.float()
        logits = self._screened(x)
        tokens = error = rounding = None
        if self.bound:
            assert self.cheap is not None
            rounding = self._rounding(x)
            error = self.cheap.error(x) + rounding
        if self.refine:
            seen = logits if query.allowed is None else logits.masked_fill(~query.allowed, -torch.inf)
            tokens = seen.topk(self.refine, dim=-1, sorted=False).indices
            exact = gathered_logits(self.weight, self.bias, self.scale, features, tokens)
            logits.scatter_(1, tokens, exact.to(logits.dtype))
            if self.reuse:
                self.rows, self.tokens = query.rows, tokens
        return Approximation(logits, tokens, error, rounding)

    def observe(self, query: ExitQuery, decision: ExitDecision) -> None:
        """Logits that became known give rows a newer shortlist at the next exit."""
        if self.reuse:
            self.last = query, decision

    def _relist(self, query: ExitQuery, decision: ExitDecision) -> None:
        logits, allowed, rows = decision.logits, query.allowed, query.rows
        assert logits is not None
        if decision.rows is not None:
            rows = rows[decision.rows]
            allowed = None if allowed is None else allowed[decision.rows]
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        best = logits.topk(self.refine, sorted=False).indices
        if len(rows) == len(query.rows):
            self.rows, self.tokens = rows, best
        elif self.tokens is not None:
            self.tokens = self.tokens.index_copy(0, self._positions(rows), best)

    def _screened(self, x: torch.Tensor) -> torch.Tensor:
        assert self.cheap is not None
        if self.down is None:
            logits = self.cheap(x)
        else:
            logits = self.cheap(torch.nn.functional.linear(x, self.down))
            logits += torch.nn.functional.linear(x, self.mean)  # type: ignore[arg-type]
        if self.bias is not None:
            logits += self.bias
        return logits

    def _rounding(self, x: torch.Tensor) -> torch.Tensor:
        """`[r]`: how far floating point may move a logit, here and in the exact head."""
        assert self.cheap is not None
        found = self.cheap.rounding(x)
        if self.bias is not None:
            found += self.bias.abs().max().float() * (4 * torch.finfo(torch.float32).eps * (x.shape[-1] + 16))
        return found

    def _shortlisted(self, features: torch.Tensor, query: ExitQuery) -> torch.Tensor:
        assert self.tokens is not None
        tokens = self.tokens if len(self.tokens) == 1 else self.tokens[self._positions(query.rows)]
        exact = gathered_logits(self.weight, self.bias, self.scale, features, tokens)
        exact = exact.to(torch.float64 if self.weight.dtype == torch.float64 else torch.float32)
        # Over the whole vocabulary again, so that masks and measures need not know of the list.
        return exact.new_full((len(tokens), len(self.weight)), -torch.inf).scatter_(1, tokens, exact)

    def _positions(self, rows: torch.Tensor) -> torch.Tensor:
        """Where `rows` lie in `self.rows`."""
        assert self.rows is not None
        return (rows[:, None] == self.rows).int().argmax(-1)
