"""`StaircaseCache`: a staircase and the cross-attention states, in the shape Transformers' layers and `generate()` expect.

It carries a reference to the running generation (`state.py`), which is all that changes beside keys and values.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache

from deed.policies.policy import ExitPolicy

from .block import Block
from .row_room import appended, grown, kept
from .staircase import STEP, Staircase
from .state import GenerationState


class StaircaseCache(EncoderDecoderCache):
    """The cache of an early-exit generation. Layers see only the rows and positions of the block in work.

    Args:
        n_layers: decoder layers.
        policy: decides which rows exit, in the generation that is begun with this cache.
        confidence_over: see `DeedConfig.confidence_over`.
        capacity: positions to make room for at first.
        audit: see `Staircase`.

    Attributes:
        stairs: keys, values, stairs and pending states.
        cross_keys, cross_values: per layer `[rows, heads, source, head_dim]`, None while no row has reached it.
        cross_ready: per layer, which rows have theirs.
        state: the running (or last) generation; None before it begins.
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
        self.is_updated = _AlwaysTrue()  # cross K/V are filled for the rows in work before their layer runs
        self.cross_keys: list[torch.Tensor | None] = [None] * n_layers
        self.cross_values: list[torch.Tensor | None] = [None] * n_layers
        self.cross_ready: list[list[bool]] = [[] for _ in range(n_layers)]
        self.branch_cells = 0
        self.block: Block | None = None  # the block being computed, while its layer runs
        self.state: GenerationState | None = None
        self.request(policy, confidence_over)

    # Made anew each time: views kept here would hold the cache that holds them, and the keys and values of a generation that
    # is over would wait for Python's collector of cycles.
    @property
    def self_attention_cache(self) -> _SelfAttentionSide:  # type: ignore[override]
        """Keys and values of the decoder's own positions, as a layer asks for them."""
        return _SelfAttentionSide(self)

    @property
    def cross_attention_cache(self) -> _CrossAttentionSide:  # type: ignore[override]
        """Those of the source."""
        return _CrossAttentionSide(self)

    # -- one generation -------------------------------------------------------------------------------------------

    def request(self, policy: ExitPolicy, confidence_over: str = "all") -> None:
        """Say how the next generation leaves. It begins when the encoder's outputs are known (`begin`)."""
        self._policy, self.confidence_over = policy, confidence_over
        self.state = None

    def begin(self, model: Any, encoder_outputs: Any, **options: Any) -> GenerationState:
        """Begin a generation as it was requested; what the cache holds of an earlier one is continued.

        Args:
            model: a deed model.
            encoder_outputs: of this generation.
            options: see `GenerationState`.
        """
        options = {"confidence_over": self.confidence_over, **options}
        self.state = GenerationState(model, encoder_outputs, self._policy, **options)
        self.stairs.limit = self.state.limit
        more = len(self.state.plan.branches)
        self.stairs.add_branches(self.state.plan.branch_depths)
        if len(self.cross_keys) < self.stairs.n_layers + more:
            self.cross_keys += [None] * more
            self.cross_values += [None] * more
            self.cross_ready += [[] for _ in range(more)]
        return self.state

    @property
    def policy(self) -> ExitPolicy:
        """The exit policy of the generation."""
        return self._policy if self.state is None else self.state.policy

    @policy.setter
    def policy(self, policy: ExitPolicy) -> None:
        """Let another decide from the next step on."""
        self._policy = policy
        if self.state is not None:
            self.state.policy = policy

    def stats(self) -> dict[str, int]:
        """The work done. Cells are (row, layer, position) evaluations; padding cells are the padded blocks' waste;
        `branch_cells` those of exits' own layers, where they have some. After an exact generation also what drafting and
        verifying came to (docs/exact.md)."""
        state = self.state
        return {
            "computed_cells": self.stairs.computed_cells,
            "padding_cells": self.stairs.padding_cells,
            "full_depth_cells": 0 if state is None else state.answered * self.stairs.n_layers,
            "asked_rows": 0 if state is None else state.checked_rows,
            **({"branch_cells": self.branch_cells} if self.stairs.branches else {}),
            **({} if state is None else state.exact),
        }

    # -- the source -----------------------------------------------------------------------------------------------

    def fill_cross(self, block: Block, layer: nn.Module) -> None:
        """Compute the cross-attention states of a block's rows where they are missing at its layer."""
        state = self.state
        assert state is not None
        ready = self.cross_ready[block.layer]
        if not ready:
            ready = self.cross_ready[block.layer] = [False] * self.stairs.n_rows
        missing = [r for r in block.rows if not ready[r]]
        if not missing:
            return
        encoded, sources = state.encoder_hidden, [state.sources[r] for r in missing]
        if sources != list(range(len(encoded))):
            encoded = encoded.index_select(0, torch.tensor(sources, device=encoded.device))
        keys, values = state.plan.family.cross_kv(layer, encoded)
        # Heads of a projection lie interleaved; every step reads them, and reads them a third faster one after the other.
        keys, values = keys.contiguous(), values.contiguous()
        for buffers, new in ((self.cross_keys, keys), (self.cross_values, values)):
            if len(missing) == self.stairs.n_rows:
                buffers[block.layer] = new
                continue
            buffer = buffers[block.layer]
            if buffer is None:
                buffer = buffers[block.layer] = new.new_empty(self.stairs.n_rows, *new.shape[1:])
            buffer[torch.tensor(missing, device=new.device)] = new
        for r in missing:
            ready[r] = True

    # -- rows that move, join and leave ---------------------------------------------------------------------------

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was: stairs, pending states, keys and values, cross states."""
        order = beam_idx.tolist()
        if order == list(range(self.stairs.n_rows)):
            return
        self._select(beam_idx, order)
        if self.state is not None:
            self.state.select(beam_idx)

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        """Go on with some of the rows, in the order given; the others leave the batch, with their part in the policy."""
        self._select(torch.tensor(rows, dtype=torch.long), rows)
        if self.state is not None:
            self.state.keep(rows)

    def _select(self, indices: torch.Tensor, order: list[int]) -> None:
        self.stairs.select(indices)
        for buffers in (self.cross_keys, self.cross_values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = kept(buffer, order)
        self.cross_ready = [[ready[i] for i in order] if ready else [] for ready in self.cross_ready]

    @torch.inference_mode()
    def shorten_sources(self, length: int) -> None:
        """Cut sources, where all rows have nothing but padding beyond `length` positions."""
        assert self.state is not None
        for buffers in (self.cross_keys, self.cross_values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    buffers[layer] = grown(buffer, 2, length)
        self.state.shorten_sources(length)

    def make_rows(self) -> None:
        """Give the rows of a generation that has begun their place, before their first token."""
        assert self.state is not None
        if self.stairs.hidden is None:
            family, model = self.state.plan.family, self.state.model
            like = self.state.encoder_hidden.new_empty(0, family.d_model(model))
            self.stairs.make_rows(len(self.state.sources), like)

    @torch.inference_mode()
    def join(self, other: StaircaseCache) -> None:
        """Append the rows of another cache, whose generation has begun with the same model: they go on from where they are,
        beside these, with lengths and stairs of their own. `other` is not to be used any more.

        Raises:
            ValueError: the two cannot share a batch, see `GenerationState.join`; nothing has changed then.
        """
        if self.state is None or other.state is None:
            raise ValueError("both generations have to have begun before rows can join: StaircaseCache.begin")
        n, m = len(self.state.sources), len(other.state.sources)
        for cache in (self, other):
            cache.make_rows()
        self.state.join(other.state)
        self.stairs.join(other.stairs)
        self.branch_cells += other.branch_cells
        size = self.state.encoder_hidden.shape[1]
        for buffers, others in ((self.cross_keys, other.cross_keys), (self.cross_values, other.cross_values)):
            for layer, (a, b) in enumerate(zip(buffers, others, strict=True)):
                buffers[layer] = appended(a, b, n, m, 2, size)
        self.cross_ready = [
            [*(a or [False] * n), *(b or [False] * m)] if a or b else []
            for a, b in zip(self.cross_ready, other.cross_ready, strict=True)
        ]

    # -- what Transformers calls ----------------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions that are there; while a layer runs, those before the block it runs on."""
        return self.stairs.length if self.block is None else self.block.start

    def __len__(self) -> int:
        return self.stairs.n_layers

    def __iter__(self) -> Any:
        raise TypeError("a StaircaseCache has rows of different depth and cannot be turned into tuples")

    def __repr__(self) -> str:
        return f"StaircaseCache(rows={self.stairs.n_rows}, length={self.stairs.length}, layers={self.stairs.n_layers})"

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """As `reorder_cache`."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times, one after the other."""
        self.reorder_cache(torch.arange(self.stairs.n_rows).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest positions of every row; negative as in Transformers 5.23 (`crop(-3)` removes three)."""
        self.stairs.rollback(abs(tokens_to_remove))

    def reset(self) -> None:
        """Forget everything."""
        self.__init__(  # type: ignore[misc]
            self.stairs.n_layers, self._policy, self.confidence_over, audit=self.stairs.writes is not None
        )

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that a layer sees, and where they begin."""
        return (self.stairs.length if self.block is None else self.block.stop), 0

    @property
    def is_sliding(self) -> list[bool]:  # type: ignore[override]
        """No layer forgets."""
        return [False] * self.stairs.n_layers

    @property
    def is_compileable(self) -> bool:
        """No: shapes change from step to step."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Yes, see `crop`."""
        return True


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
        assert block is not None, "a layer ran outside its turn"
        keys, values = self.cache.cross_keys[layer_idx], self.cache.cross_values[layer_idx]
        assert keys is not None and values is not None
        if block.index is not None:
            keys, values = keys.index_select(0, block.index), values.index_select(0, block.index)
        return SimpleNamespace(keys=keys, values=values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        keys = self.cache.cross_keys[layer_idx]
        return 0 if keys is None else keys.shape[-2]
