"""`ModelPool`: many models side by side on one device, under one budget of bytes.

A model is loaded when the first request names it, has a scheduler of its own, and computes in turns with the others. Where
the budget does not allow one more, the model that has been idle for longest is dropped; one that is answering is not.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from deed.errors import QueueFull, RequestTooLarge, SchedulerClosed

from .scheduler import Scheduler
from .turns import Turns

log = logging.getLogger(__name__)


@dataclass
class Served:
    """A loaded model.

    Attributes:
        name: it is asked for by.
        loaded: what its loader gave: a deed model, or anything with one as `model` (a pipeline).
        scheduler: runs it.
        model_bytes: parameters and buffers; `reserved_bytes` with its keys and values.
        users: callers that hold it.
        used: `time.monotonic()` of the last of them.
    """

    name: str
    loaded: Any
    scheduler: Scheduler
    model_bytes: int
    reserved_bytes: int
    users: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> Any:
        """The deed model itself."""
        return self.scheduler.model


class ModelPool:
    """Models by name, loaded when they are asked for.

    Args:
        loaders: by name, a function that gives a deed model in evaluation mode, or something with one as `model`.
        bytes_budget: of all loaded models and their keys and values; None: no limit.
        cache_bytes: of the keys and values of each.
        scheduler_options: more options of each `Scheduler`.

    Attributes:
        evictions: how many models were dropped.

    Example:
        ```python
        with ModelPool({"words": lambda: deed.from_pretrained("model")}, bytes_budget=4 << 30) as pool:
            with pool.use("words") as served:
                ticket = served.scheduler.submit(GenerationRequest(dict(inputs), {"max_new_tokens": 8}))
                ticket.result(60)
        ```
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Any]],
        *,
        bytes_budget: int | None = None,
        cache_bytes: int = 1 << 30,
        **scheduler_options: Any,
    ) -> None:
        self.loaders, self.bytes_budget, self.cache_bytes = dict(loaders), bytes_budget, cache_bytes
        self.turns = Turns()
        self.evictions = 0
        self._options = scheduler_options
        self._changed = threading.Condition()
        self._loaded: dict[str, Served] = {}
        self._loading: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._closed = False

    @property
    def loaded(self) -> dict[str, Served]:
        """What is loaded, by name, the one used last at the end."""
        with self._changed:
            return dict(sorted(self._loaded.items(), key=lambda item: item[1].used))

    @property
    def bytes_in_use(self) -> int:
        """Bytes that loaded models and their budgets of keys and values come to."""
        with self._changed:
            return sum(served.reserved_bytes for served in self._loaded.values())

    @contextmanager
    def use(self, name: str) -> Iterator[Served]:
        """Hold a model, loading it first where it is not there; while it is held it stays.

        Raises:
            KeyError: no model of this name.
            QueueFull: it does not fit beside those that are answering now.
            RequestTooLarge: it does not fit the budget at all.
            SchedulerClosed: the pool was closed.
        """
        served = self._hold(name)
        try:
            yield served
        finally:
            with self._changed:
                served.users -= 1
                served.used = time.monotonic()
                self._changed.notify_all()

    def _hold(self, name: str) -> Served:
        if name not in self.loaders:
            raise KeyError(f"no model {name!r}; there are {', '.join(map(repr, self.loaders))}")
        with self._changed:
            self._changed.wait_for(lambda: name not in self._loading)
            if self._closed:
                raise SchedulerClosed("the models are being closed")
            served = self._loaded.get(name)
            if served is not None:
                served.users += 1
                return served
            self._loading.add(name)
        try:
            served = self._load(name)
            served.users += 1
            with self._changed:
                self._loaded[name] = served
            return served
        finally:
            with self._changed:
                self._loading.discard(name)
                self._changed.notify_all()

    def _load(self, name: str) -> Served:
        if name in self._sizes:  # what it takes shows when it is loaded for the first time
            self._make_room(name, self._sizes[name])
        loaded = self.loaders[name]()
        model = getattr(loaded, "model", loaded) if not hasattr(loaded, "deed_family") else loaded
        own = sum(x.nbytes for x in [*model.parameters(), *model.buffers()])
        needed = own + self.cache_bytes
        if self.bytes_budget is not None and needed > self.bytes_budget:
            raise RequestTooLarge(
                f"model {name!r} takes {own:,} bytes and {self.cache_bytes:,} for keys and values, the budget "
                f"(bytes_budget) is {self.bytes_budget:,}: raise it, or lower cache_bytes"
            )
        self._sizes[name] = needed
        self._make_room(name, needed)
        scheduler = Scheduler(model, cache_bytes=self.cache_bytes, turns=self.turns, **self._options)
        return Served(name, loaded, scheduler, own, needed)

    def _make_room(self, name: str, needed: int) -> None:
        """Drop idle models, the longest idle first, until `needed` bytes are free."""
        while self.bytes_budget is not None:
            with self._changed:
                if sum(s.reserved_bytes for s in self._loaded.values()) + needed <= self.bytes_budget:
                    return
                idle = [s for s in self._loaded.values() if not s.users and not s.scheduler.busy]
                if not idle:
                    raise QueueFull(f"model {name!r} has no room beside those that are answering; try again", 5.0)
                oldest = min(idle, key=lambda s: s.used)
                del self._loaded[oldest.name]
                self.evictions += 1
            log.info("model %r is dropped to make room for %r", oldest.name, name)
            oldest.scheduler.close()
            del oldest, idle
            gc.collect()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for those that were taken; see `Scheduler.drain`."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._closed = True
            schedulers = [served.scheduler for served in self._loaded.values()]
        done = True
        for scheduler in schedulers:
            done &= scheduler.drain(None if end is None else max(0.0, end - time.monotonic()))
        return done

    def close(self) -> None:
        """End all schedulers and forget the models."""
        with self._changed:
            self._closed = True
            loaded, self._loaded = list(self._loaded.values()), {}
        for served in loaded:
            served.scheduler.close()

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
