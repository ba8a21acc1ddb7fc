"""`StaircaseCache`: a staircase and the cross-attention states, in the shape Transformers' layers and `generate()` expect.

Everything a running generation changes lives here, never on the model, so two threads may generate with one model.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache

from deed.policies.policy import ExitPolicy

from .staircase import STEP, Block, Staircase


class StaircaseCache(EncoderDecoderCache):
    """The cache of an early-exit generation. Layers see only the rows and positions of the block in work.

    Args:
        n_layers: decoder layers.
        policy: who leaves.
        confidence_over: see `DeedConfig.confidence_over`.
        capacity: positions to make room for at first.
        audit: see `Staircase`.
    """

    def __init__(
        self,
        n_layers: int,
        policy: ExitPolicy,
        confidence_over: str = "all",
        capacity: int = STEP,
        audit: bool = False,
    ) -> None:
        # Not super().__init__(): it wants two Cache objects, while these are two views of this one.
        self.stairs = Staircase(n_layers, capacity, audit)
        self.policy = policy
        self.confidence_over = confidence_over
        self.self_attention_cache = _SelfAttentionSide(self)  # type: ignore[assignment]
        self.cross_attention_cache = _CrossAttentionSide(self)  # type: ignore[assignment]
        self.is_updated = _AlwaysTrue()  # cross K/V are filled for the rows in work before their layer runs
        self.cross_keys: list[torch.Tensor | None] = [None] * n_layers
        self.cross_values: list[torch.Tensor | None] = [None] * n_layers
        self.cross_ready: list[list[bool]] = [[] for _ in range(n_layers)]
        self.block: Block | None = None
        self.own_mask: torch.Tensor | None = None  # of the block in work, see masks.folded
        self.cross_mask: torch.Tensor | None = None  # the same towards the source, of all rows, see masks.cross
        self.encoder_mask: torch.Tensor | None = None  # [rows, 1, 1, source]; None where nothing is masked
        self.encoder_seen = False
        self.tables: dict[Any, Any] = {}  # what masks.py keeps from step to step
        self.plan: Any = None  # what decode.py looks up once per generation
        self.begin()

    # -- one generation -------------------------------------------------------------------------------------------

    def begin(self, processors: Any = (), may_skip_finished: bool = False, max_length: int | None = None) -> None:
        """Start counting steps anew (a cache may be continued by another `generate()`).

        Args:
            max_length: of the sequences, where it is known.
        """
        # The last token is never fed back.
        self.stairs.limit = None if max_length is None else max_length - 1
        self.step = 0
        self.plan = None
        self.depths: list[list[int]] = []  # [steps][rows]: depth of the row that gave each token, 0 once finished
        self.asked_rows = 0  # rows whose logits an exit computed only to ask (and answer)
        self.finished: list[bool] | None = None
        self.may_skip_finished = may_skip_finished
        self.constraints = [p for p in processors if is_constraint(p)] if self.confidence_over == "allowed" else []
        self.token_ids: torch.Tensor | None = None

    def live_rows(self) -> list[int]:
        """The rows that still need a token."""
        if self.finished is None or not self.may_skip_finished:
            return list(range(self.stairs.n_rows))
        return [r for r, done in enumerate(self.finished) if not done]

    def note_finished(self, done: list[bool]) -> None:
        """Rows that a stopping criterion ended with the newest token."""
        before = self.finished or [False] * len(done)
        self.finished = [a or b for a, b in zip(before, done, strict=True)]

    def record(self, depths: list[int]) -> None:
        """Keep the depths `[rows]` of one step."""
        if self.finished is not None:
            depths = [0 if done else d for d, done in zip(depths, self.finished, strict=True)]
        self.depths.append(depths)
        self.step += 1

    def allowed(self, vocab: int, device: torch.device) -> torch.Tensor | None:
        """`[rows, vocab]` bool: tokens the constraints leave open at this step; None where nothing constrains."""
        if not self.constraints or self.token_ids is None:
            return None
        scores = torch.zeros(self.token_ids.shape[0], vocab, device=device)
        for processor in self.constraints:
            scores = processor(self.token_ids, scores)
        open_tokens = scores > -torch.inf
        # A dead end (nothing allowed) measures over everything instead of over nothing.
        return open_tokens | ~open_tokens.any(-1, keepdim=True)

    def stats(self) -> dict[str, int]:
        """Cells are (row, layer, position) evaluations; padding cells are the ragged blocks' waste."""
        full = sum(1 for step in self.depths for d in step if d) * self.stairs.n_layers
        return {
            "computed_cells": self.stairs.computed_cells,
            "padding_cells": self.stairs.padding_cells,
            "full_depth_cells": full,
            "asked_rows": self.asked_rows,
        }

    # -- the block in work ----------------------------------------------------------------------------------------

    def enter(self, block: Block, layer: nn.Module, family: Any, encoder_hidden: torch.Tensor) -> None:
        """Make `block` the one that layers see; compute its rows' cross-attention states where they are missing."""
        self.block = block
        ready = self.cross_ready[block.layer]
        if not ready:
            ready = self.cross_ready[block.layer] = [False] * self.stairs.n_rows
        missing = [r for r in block.rows if not ready[r]]
        if not missing:
            return
        everyone = len(missing) == self.stairs.n_rows
        at = None if everyone else torch.tensor(missing, device=encoder_hidden.device)
        keys, values = family.cross_kv(layer, encoder_hidden if at is None else encoder_hidden.index_select(0, at))
        # Heads of a projection lie interleaved; every step reads them, and reads them a third faster one after the other.
        keys, values = keys.contiguous(), values.contiguous()
        for buffers, new in ((self.cross_keys, keys), (self.cross_values, values)):
            buffer = buffers[block.layer]
            if at is None:
                buffers[block.layer] = new
                continue
            if buffer is None:
                buffer = buffers[block.layer] = new.new_empty(self.stairs.n_rows, *new.shape[1:])
            buffer[at] = new
        for r in missing:
            ready[r] = True

    def attend_own(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """Take in the block's keys and values, and attend to all its rows have: `families.parts.Attends`."""
        block = self.block
        assert block is not None
        keys, values = (x.narrow(2, 0, block.stop) for x in self.stairs.put(block, k, v))
        if block.packed:
            return _attend_by_spans(q, keys, values, block, self.own_mask, scale)
        if len(block.rows) == block.n_rows:
            return _attend(q, keys, values, self.own_mask, scale)
        return _attend_by_runs(q, keys, values, block, self.own_mask, scale)

    def attend_cross(self, q: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend to the source: `families.parts.Attends`."""
        block = self.block
        assert block is not None
        keys, values = self.cross_keys[block.layer], self.cross_values[block.layer]
        assert keys is not None and values is not None
        mask = self.cross_mask
        if len(block.rows) == block.n_rows and not block.packed:
            return _attend(q, keys, values, mask, scale)
        if mask is not None and mask.shape[0] > 1 and block.index is not None:
            mask = mask.index_select(0, block.index)
        if block.packed:
            return _attend_by_spans(q, keys, values, block, mask, scale)
        return _attend_by_runs(q, keys, values, block, mask, scale)

    # -- what Transformers calls ----------------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.stairs.length

    def __len__(self) -> int:
        return self.stairs.n_layers

    def __iter__(self) -> Any:
        raise TypeError("a StaircaseCache has rows of different depth and cannot be turned into tuples")

    def __repr__(self) -> str:
        return f"StaircaseCache(rows={self.stairs.n_rows}, length={self.stairs.length}, layers={self.stairs.n_layers})"

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was: stairs, pending states, keys and values, cross states."""
        order = beam_idx.tolist()
        if order == list(range(self.stairs.n_rows)):
            return
        self.stairs.select(beam_idx)
        for buffers in (self.cross_keys, self.cross_values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = buffer.index_select(0, beam_idx.to(buffer.device))
        self.cross_ready = [[ready[i] for i in order] if ready else [] for ready in self.cross_ready]
        if self.encoder_mask is not None:
            self.encoder_mask = self.encoder_mask.index_select(0, beam_idx.to(self.encoder_mask.device))
        if self.finished is not None:
            self.finished = [self.finished[i] for i in order]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.reorder_cache(torch.arange(self.stairs.n_rows).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest positions of every row; negative as in Transformers 5.23 (`crop(-3)` removes three)."""
        self.stairs.rollback(abs(tokens_to_remove))

    def reset(self) -> None:
        """Forget everything."""
        self.__init__(  # type: ignore[misc]
            self.stairs.n_layers, self.policy, self.confidence_over, audit=self.stairs.writes is not None
        )

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.stairs.length, 0

    @property
    def is_sliding(self) -> list[bool]:  # type: ignore[override]
        return [False] * self.stairs.n_layers

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return True


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)


def _attend_by_runs(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Some rows of a batch: slices of keys and values, which are large, one call per run; nothing is gathered.

    Args:
        keys, values: `[rows, heads, length, head_dim]` of the whole batch.
        mask: `[r or 1, heads or 1, width or 1, length]` of the block's rows.
    """
    found = []
    for i, j, row in block.runs:
        part = mask if mask is None or mask.shape[0] == 1 else mask[i:j]
        found.append(_attend(q[i:j], keys[row : row + j - i], values[row : row + j - i], part, scale))
    return found[0] if len(found) == 1 else torch.cat(found)


def _attend_by_spans(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block: Block,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """A packed block: one call per span, `[1, heads, cells, head_dim]` in and out.

    Args:
        keys, values: `[rows, heads, length, head_dim]` of the whole batch.
        mask: `[r or 1, heads or 1, width or 1, length]` of the block's rows as if it were not packed: a span's positions
            are its last.
    """
    found = []
    for (i, j, row, stair), (a, b) in zip(block.spans, block.ranges, strict=True):
        part = mask if mask is None or mask.shape[0] == 1 else mask[i:j]
        if part is not None and part.shape[2] > 1:
            part = part[:, :, stair - block.start :]
        rows = q[0, :, a:b].unflatten(1, (j - i, -1)).transpose(0, 1)
        attended = _attend(rows, keys[row : row + j - i], values[row : row + j - i], part, scale)
        found.append(attended.transpose(0, 1).flatten(1, 2))
    return torch.cat(found, 1)[None]


class _AlwaysTrue(dict):
    def get(self, key: Any, default: Any = None) -> bool:
        return True


class _SelfAttentionSide:
    """What a layer's self-attention sees: keys and values of the rows in work."""

    def __init__(self, cache: StaircaseCache) -> None:
        self.cache = cache

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        block = self.cache.block
        assert block is not None and block.layer == layer_idx, "a layer ran outside its turn"
        return self.cache.stairs.store(block, keys, values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.block.start if self.cache.block is not None else self.cache.stairs.length


class _CrossAttentionSide:
    """What a layer's cross-attention sees: `layers[i].keys` and `.values` of the rows in work."""

    def __init__(self, cache: StaircaseCache) -> None:
        self.cache = cache

    @property
    def layers(self) -> _CrossAttentionSide:
        return self

    def __getitem__(self, layer_idx: int) -> SimpleNamespace:
        block = self.cache.block
        assert block is not None
        keys, values = self.cache.cross_keys[layer_idx], self.cache.cross_values[layer_idx]
        assert keys is not None and values is not None
        if block.index is not None:
            keys, values = keys.index_select(0, block.index), values.index_select(0, block.index)
        return SimpleNamespace(keys=keys, values=values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        keys = self.cache.cross_keys[layer_idx]
        return 0 if keys is None else keys.shape[-2]


# Processors whose -inf depends on the tokens so far and not on the scores: they say what is allowed.
_CONSTRAINTS = (
    "PrefixConstrainedLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
)


def is_constraint(processor: Any) -> bool:
    """Whether a logits processor forbids tokens by the prefix alone. A class of your own may set `is_constraint`."""
    if hasattr(processor, "is_constraint"):
        return bool(processor.is_constraint)
    return any(cls.__name__ in _CONSTRAINTS for cls in type(processor).__mro__)
