"""What one call of `generate()` asks for, beside what Transformers hands around.

Whisper's `generate()` runs several generations inside one call, over 30-second pieces and at rising temperatures, and
prepares a cache for each. The request travels in a context variable instead of an argument, so that each of them finds it:
threads have their own, and a generation started within another has its own again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from deed.engine.cache import StaircaseCache
from deed.policies.policy import ExitPolicy


class TakesOver(Protocol):
    """Runs the two costly parts of a `generate()` in its place: a scheduler, which batches them with those of others."""

    def encode(self, model: Any, call: dict[str, Any]) -> dict[str, Any]:
        """What `_maybe_prepare_encoder_kwargs_for_generation` returns for these arguments of it: the `model_kwargs` with
        `encoder_outputs`."""
        ...

    def decode(self, model: Any, request: Request, call: dict[str, Any]) -> Any:
        """What `_sample` returns for these arguments of it.

        Args:
            model: a deed model.
            request: the running call of its `generate()`.
            call: arguments by name, keyword arguments as `model_kwargs`.
        """
        ...


@dataclass
class Request:
    """A running call of `generate()`.

    Args:
        model: whose.
        policy: decides which rows exit; every inner generation begins anew with it.
        confidence_over: see `DeedConfig.confidence_over`.
        exact: whether every token is to be the last layer's (`engine/exact.py`).
        in_segments: inner generations tell of depths although tokens alone were asked for, since they end up in segments.
        taker: runs encoder and decoding loop in this call's place; None: they run here.

    Attributes:
        tokens_asked: tokens alone were asked for, although inner generations returned more.
        exit_layers: of the inner generations so far, each `[sequences, new tokens]`.
        accepted, stats: of those with `exact=True`, drafts that stood `[sequences]`, and what `stats()` of the cache says.
    """

    model: Any
    policy: ExitPolicy
    confidence_over: str
    exact: bool = False
    in_segments: bool = False
    tokens_asked: bool = False
    taker: TakesOver | None = field(default_factory=lambda: _TAKER.get())
    exit_layers: list[torch.Tensor] = field(default_factory=list)
    accepted: list[torch.Tensor] = field(default_factory=list)
    stats: list[dict[str, int]] = field(default_factory=list)

    def new_cache(self) -> StaircaseCache:
        """A cache for one inner generation."""
        return StaircaseCache(len(self.model.deed_family.layers(self.model)), self.policy, self.confidence_over)


_RUNNING: ContextVar[Request | None] = ContextVar("deed_request", default=None)
_TAKER: ContextVar[TakesOver | None] = ContextVar("deed_taker", default=None)


@contextmanager
def taken_over(taker: TakesOver) -> Iterator[None]:
    """Let `taker` run encoder and decoding loop of every `generate()` in this thread until the block ends."""
    token = _TAKER.set(taker)
    try:
        yield
    finally:
        _TAKER.reset(token)


@contextmanager
def running(request: Request) -> Iterator[Request]:
    """Make `request` the one that `current` finds, in this thread and until the block ends."""
    token = _RUNNING.set(request)
    try:
        yield request
    finally:
        _RUNNING.reset(token)


def current(model: Any) -> Request | None:
    """The running call of this model's `generate()`, if there is one."""
    request = _RUNNING.get()
    return request if request is not None and request.model is model else None
