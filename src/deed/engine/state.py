"""`GenerationState`: the state of one running generation, except keys and values.

It is made once per generation, when the encoder's outputs are known, and the cache carries a reference to it, since the cache
is all that Transformers' layers and `generate()` hand around. Nothing of it lies on the model: two threads may generate with
one model at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from deed.exits.branches import branches_of
from deed.exits.heads import DirectExits
from deed.families import DecoderFamily
from deed.families.kept import kept
from deed.policies import policy as policies
from deed.policies.policy import ExitPolicy

from . import masks
from .constraints import is_constraint
from .cuda_graphs import recorded
from .greedy import greedy_head
from .row_room import appended, grown
from .row_room import kept as rows_kept

# Where padding costs more than attending to rows one by one it is packed away. Seconds, on two Zen 4 cores: a span by
# itself; and, times d_model squared, a cell beyond the few that come free with reading a layer's weights (24 d^2 operations
# at 190 GFLOP/s).
SPAN, CELL = 50e-6, 1.3e-10


class Plan:
    """What a generation looks up once: the family for its source, layers, their parts where the family knows them, exits.

    Args:
        model: a deed model.
        encoder_outputs: of this generation.

    Attributes:
        branches: exits' own layers (`adapter="layer"`), `branch_depths` the depths of these exits. `family`, `parts` and
            `windows` number them after the decoder's.
        embed: the family's, a function of ids and positions.
        exit_of: exit index by depth.
        windows: per layer, how many positions back it sees; None sees all.
        vocab: size of the head's output.
        greedy_head: the head where only the best token is wanted; None: it has nothing to save.
        span_worth: see `Staircase.block`.
    """

    def __init__(self, model: Any, encoder_outputs: Any) -> None:
        self.family: DecoderFamily = model.deed_family.for_source(model, encoder_outputs)
        self.layers = list(self.family.layers(model))
        kind = type(self.family).__qualname__
        decoder = self.family.decoder(model)
        self.parts = kept(decoder, f"parts by {kind}", lambda: self.family.parts(model), model.config)
        self.branches = branches_of(model)
        self.branch_depths = model.deed_config.exit_layers[:-1] if self.branches else []
        if self.branches:
            alone = self.family.with_layers(self.branches)
            more = kept(model.deed_exits, f"parts by {kind}", lambda: alone.parts(model), model.config)
            self.parts = None if self.parts is None or more is None else [*self.parts, *more]
            self.family = self.family.with_layers([*self.layers, *self.branches])
        self.embed = self.family.embedding(model)
        self.exit_of = {depth: i for i, depth in enumerate(model.deed_config.exit_layers)}
        self.vocab = self.family.vocab_size(model)
        self.exits: Any = DirectExits(model)
        self.recorded_layers = None
        recordings = recorded(model, self.parts, self.exits)
        if recordings is not None:
            self.recorded_layers, self.exits = recordings
        self.span_worth = math.inf
        if self.parts is not None and model.device.type == "cpu":
            self.span_worth = SPAN / (CELL * self.family.d_model(model) ** 2)
        self.greedy_head = greedy_head(model, self.exits)
        self.windows = [self.family.window(model, i) for i in range(len(self.layers))]
        self.windows += self.windows[-1:] * len(self.branches)
        self._everyone: torch.Tensor | None = None
        self._positions = torch.arange(64, device=model.device)[None]

    def for_source(self, model: Any, encoder_outputs: Any) -> Plan:
        """The same for another generation of the model, without looking anything up again.

        Args:
            model: as it was when this plan was made.
            encoder_outputs: of that generation.
        """
        plan = copy.copy(self)
        plan.family = model.deed_family.for_source(model, encoder_outputs)
        return plan

    def positions(self, start: int, stop: int) -> torch.Tensor:
        """`[1, stop - start]` long: start, start + 1 …"""
        if stop > self._positions.size(1):
            self._positions = torch.arange(2 * stop, device=self._positions.device)[None]
        return self._positions.narrow(1, start, stop - start)

    def numbers(self, rows: list[int], n_rows: int, device: torch.device) -> torch.Tensor:
        """Row numbers as a tensor; that of all is kept, since sending it takes a GPU as long as a layer.

        Args:
            rows: ascending.
            n_rows: rows of the batch.
            device: of the result, `[len(rows)]` long.
        """
        if len(rows) < n_rows:
            return torch.tensor(rows, device=device)
        if self._everyone is None or len(self._everyone) != n_rows:
            self._everyone = torch.arange(n_rows, device=device)
        return self._everyone


class GenerationState:
    """One running generation.

    Args:
        model: a deed model.
        encoder_outputs: what its encoder returned; the family says which states of it the decoder attends to (`source`).
        policy: decides which rows exit.
        encoder_mask: `[rows, source]`, 1 keeps; None keeps all. The family may replace it (`source`).
        confidence_over: see `DeedConfig.confidence_over`.
        processors: the generation's logits processors, for `confidence_over="allowed"`.
        may_skip_finished: rows that have finished need no more tokens (not so under beams).
        max_length: of the sequences, where it is known.
        plan: of an earlier generation of the model, which has not changed since; None: looked up anew.

    Attributes:
        step: index of the token being generated; `steps` those of the rows, where they joined at different times.
        depths: `[steps][rows]`, the depth of the row that gave each token, 0 once finished.
        checked_rows: rows whose logits an exit computed, whether or not the row left there.
        exact: what drafting and verifying came to, in an exact generation.
        answered: tokens that rows were given before they finished.
        finished: `[rows]`, or None before the first row could have finished.
        token_ids: `[rows, length]`, what constraints need to know.
        row_allowed: answers in place of `allowed`, where rows have constraints and lengths of their own.
        sources: of which row of `encoder_hidden` each row is.
        encoder_bias: the encoder's mask as it goes into attention, `[rows, 1, 1, source]`; None where nothing is masked.
        tables: what `masks.py` keeps from step to step.
    """

    def __init__(
        self,
        model: Any,
        encoder_outputs: Any,
        policy: ExitPolicy,
        encoder_mask: torch.Tensor | None = None,
        confidence_over: str = "all",
        processors: Iterable[Any] = (),
        may_skip_finished: bool = False,
        max_length: int | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.model = model
        self.plan = Plan(model, encoder_outputs) if plan is None else plan.for_source(model, encoder_outputs)
        self.encoder_hidden, encoder_mask = self.plan.family.source(model, encoder_outputs, encoder_mask)
        self.sources = list(range(self.encoder_hidden.shape[0]))
        self.policy = policies.begin(policy, len(self.sources))
        self.step = 0
        self.steps: list[int] | None = None
        self.depths: list[list[int]] = []
        self.checked_rows = self.answered = 0
        self.exact: dict[str, int] = {}
        self.finished: list[bool] | None = None
        self.may_skip_finished = may_skip_finished
        self.constraints = [p for p in processors if is_constraint(p)] if confidence_over == "allowed" else []
        self.token_ids: torch.Tensor | None = None
        self.row_allowed: Callable[[], torch.Tensor | None] | None = None
        self.limit = None if max_length is None else max_length - 1  # the last token is never fed back
        self.tables: dict[Any, Any] = {}
        keeps_all = encoder_mask is None or bool(encoder_mask.all())
        self.encoder_keep = None if encoder_mask is None or keeps_all else encoder_mask.to(torch.bool)
        self.encoder_bias = self._encoder_bias()

    def _encoder_bias(self) -> torch.Tensor | None:
        if self.encoder_keep is None:
            return None
        # Layers with a bias add their masks to it, as numbers; that shows in rows which have nothing to read.
        bools = self.plan.parts is None or not self.plan.family.has_bias
        return masks.mask_for(self.model, self.encoder_keep[:, None, None, :], self.encoder_hidden.dtype, bools)

    # -- rows -----------------------------------------------------------------------------------------------------

    def active_rows(self, n_rows: int) -> list[int]:
        """The rows that still need a token."""
        if self.finished is None or not self.may_skip_finished:
            return list(range(n_rows))
        return [r for r, done in enumerate(self.finished) if not done]

    def note_finished(self, done: list[bool]) -> None:
        """Take note of `[rows]` that a stopping criterion ended with the newest token."""
        before = self.finished or [False] * len(done)
        self.finished = [a or b for a, b in zip(before, done, strict=True)]

    def select(self, indices: torch.Tensor) -> None:
        """Row i goes on as what row `indices[i]` was (beams). Policies stay with the position in the batch."""
        order = indices.tolist()
        self.sources = [self.sources[i] for i in order]
        for name in ("encoder_keep", "encoder_bias"):
            mask = getattr(self, name)
            if mask is not None:
                setattr(self, name, mask.index_select(0, indices.to(mask.device)))
        if self.finished is not None:
            self.finished = [self.finished[i] for i in order]
        if self.steps is not None:
            self.steps = [self.steps[i] for i in order]

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the rows, in the order given; the others leave the batch, with their part in the policy."""
        self.select(torch.tensor(rows, dtype=torch.long))
        if len(set(self.sources)) == len(rows):  # what nobody attends to any more is not kept
            self.sources, held = list(range(len(rows))), self.sources
            self.encoder_hidden = rows_kept(self.encoder_hidden, held)
        self.policy = policies.keep(self.policy, rows)

    def shorten_sources(self, length: int) -> None:
        """See `StaircaseCache.shorten_sources`."""
        self.encoder_hidden = grown(self.encoder_hidden, 1, length)
        if self.encoder_keep is not None:
            keep = self.encoder_keep[:, :length]
            self.encoder_keep = None if bool(keep.all()) else keep
        self.encoder_bias = self._encoder_bias()
        self.tables = {}

    @torch.inference_mode()
    def join(self, other: GenerationState) -> None:
        """Take over the rows of another generation with the same model, after one's own. Sources are padded to the longer.
        `depths` of
        later steps have a column for each; counters add up.

        Raises:
            ValueError: the two cannot share a batch: another model, policies or sources that do not go together, constraints
                on tokens.
        """
        if other.model is not self.model:
            raise ValueError("rows of another model cannot join a generation")
        if self.constraints or other.constraints:
            raise ValueError('confidence_over="allowed" needs rows that start together; use "all" where rows join')
        n, m = len(self.sources), len(other.sources)
        family = self.plan.family.join_sources(other.plan.family)
        self.policy = policies.join(self.policy, other.policy, n, m)
        if self.steps is None and other.steps is None and self.step == other.step:
            pass
        else:
            self.steps = [*(self.steps or [self.step] * n), *(other.steps or [other.step] * m)]
        self.plan.family, self.plan.embed = family, family.embedding(self.model)
        a, b = self.encoder_hidden, other.encoder_hidden
        size = max(a.shape[1], b.shape[1])
        keeps = [_keep(s, size) for s in (self, other)]
        keep = torch.cat(keeps)
        self.encoder_keep = None if bool(keep.all()) else keep
        self.sources = [*self.sources, *(len(a) + i for i in other.sources)]
        self.encoder_hidden = appended(a, b, len(a), len(b), 1, size)  # type: ignore[assignment]
        self.encoder_bias = self._encoder_bias()
        if self.finished is not None or other.finished is not None:
            self.finished = [*(self.finished or [False] * n), *(other.finished or [False] * m)]
        self.may_skip_finished = self.may_skip_finished and other.may_skip_finished
        self.limit = None if self.limit is None or other.limit is None else max(self.limit, other.limit)
        self.checked_rows += other.checked_rows
        self.answered += other.answered
        self.tables = {}

    # -- steps ----------------------------------------------------------------------------------------------------

    def record(self, depths: list[int], rows: list[int] | None = None) -> None:
        """Count a step that gave each of `rows` (None: all) a token, at these depths `[batch rows]`."""
        if self.finished is not None:
            depths = [0 if done else d for d, done in zip(depths, self.finished, strict=True)]
        self.depths.append(depths)
        self.answered += sum(d > 0 for d in depths)
        if rows is not None and self.steps is None and len(rows) < len(depths):
            self.steps = [self.step] * len(depths)
        if self.steps is not None:
            for r in range(len(self.steps)) if rows is None else rows:
                self.steps[r] += 1
        self.step += 1

    def allowed(self) -> torch.Tensor | None:
        """`[rows, vocab]` bool: tokens the constraints leave open at this step; None where nothing constrains."""
        if self.row_allowed is not None:
            return self.row_allowed()
        if not self.constraints or self.token_ids is None:
            return None
        scores = torch.zeros(self.token_ids.shape[0], self.plan.vocab, device=self.encoder_hidden.device)
        for processor in self.constraints:
            scores = processor(self.token_ids, scores)
        open_tokens = scores > -torch.inf
        # A dead end (nothing allowed) measures over everything instead of over nothing.
        return open_tokens | ~open_tokens.any(-1, keepdim=True)


def _keep(state: GenerationState, size: int) -> torch.Tensor:
    """`[rows, size]` bool: which source positions are no padding, filled up to `size`."""
    length = state.encoder_hidden.shape[1]
    keep = state.encoder_keep
    if keep is None:
        keep = torch.ones(len(state.sources), length, dtype=torch.bool, device=state.encoder_hidden.device)
    return torch.nn.functional.pad(keep, (0, size - length))
