"""`ModelPool`: many models side by side on one device, under one budget of bytes.

A model is loaded when the first request names it, has a scheduler of its own, and computes in turns with the others. Where
the budget does not allow one more, the model that has been idle for longest is dropped; one that is answering is not.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from deed.errors import QueueFull, RequestTooLarge, SchedulerClosed

from .metrics import Metrics
from .scheduler import Scheduler
from .turns import Turns

log = logging.getLogger(__name__)
CLOSED = "the models are being closed"


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

    @property
    def idle(self) -> bool:
        """Whether nobody holds it and no request of it is unanswered."""
        return not self.users and not self.scheduler.busy


class ModelPool:
    """Models by name, loaded when they are asked for, one at a time.

    Args:
        loaders: by name, a function that gives a deed model in evaluation mode, or something with one as `model`.
        bytes_budget: of all loaded models and their keys and values; None: no limit.
        cache_bytes: of the keys and values of each.
        sizes: by name, bytes that a model is expected to take, so that room is made before it is loaded; what it does take
            is known once it was.
        opened: called with every model that was loaded, before anybody gets it.
        dropping: called with every model that is about to be dropped, or closed.
        scheduler_options: more options of each `Scheduler`.

    Attributes:
        loads, evicted: how often a model was loaded, and dropped to make room, by name.

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
        sizes: Mapping[str, int] | None = None,
        opened: Callable[[Served], None] | None = None,
        dropping: Callable[[Served], None] | None = None,
        **scheduler_options: Any,
    ) -> None:
        self.loaders, self.bytes_budget, self.cache_bytes = dict(loaders), bytes_budget, cache_bytes
        self.turns = Turns()
        self.loads, self.evicted = Counter[str](), Counter[str]()
        self._opened, self._dropping, self._options = opened, dropping, scheduler_options
        self._loading = threading.Lock()  # held while a model is loaded
        self._changed = threading.Lock()  # guards what follows
        self._loaded: dict[str, Served] = {}
        self._sizes = {name: size + cache_bytes for name, size in (sizes or {}).items()}
        self._counted: dict[str, Metrics] = {}  # they go on when a model is loaded again
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
            return self._in_use()

    @property
    def evictions(self) -> int:
        """How many models were dropped to make room."""
        return self.evicted.total()

    def fits(self, name: str) -> bool:
        """Whether a model has room beside those that are loaded, as far as its size is known."""
        with self._changed:
            return self._is_room(self._sizes.get(name, 0))

    @contextmanager
    def use(self, name: str) -> Iterator[Served]:
        """Hold a model, loading it first where it is not there; while it is held it stays.

        Raises:
            KeyError: no model of this name.
            QueueFull: it does not fit beside those that are answering now.
            RequestTooLarge: it does not fit the budget at all.
            SchedulerClosed: the pool was closed.
        """
        served = self.hold(name)
        try:
            yield served
        finally:
            self.release(served)

    def hold(self, name: str) -> Served:
        """As `use`, until `release` is called.

        Raises:
            KeyError, QueueFull, RequestTooLarge, SchedulerClosed: as `use`.
        """
        if name not in self.loaders:
            raise KeyError(f"no model {name!r}; there are {', '.join(map(repr, self.loaders))}")
        if (served := self.hold_loaded(name)) is not None:
            return served
        with self._loading:
            if (served := self.hold_loaded(name)) is not None:  # another caller has loaded it
                return served
            made = self._load(name)
            with self._changed:
                if not self._closed:
                    made.users, self._loaded[name] = 1, made
                    self.loads[name] += 1
                    return made
            self._end(made)
            raise SchedulerClosed(CLOSED)

    def hold_loaded(self, name: str) -> Served | None:
        """As `hold`, at once; None of a model that is not loaded.

        Raises:
            SchedulerClosed: the pool was closed.
        """
        with self._changed:
            if self._closed:
                raise SchedulerClosed(CLOSED)
            served = self._loaded.get(name)
            if served is not None:
                served.users += 1
            return served

    def release(self, served: Served) -> None:
        """Hold a model no longer."""
        with self._changed:
            served.users -= 1
            served.used = time.monotonic()

    def _load(self, name: str) -> Served:
        self._make_room(name)
        loaded = self.loaders[name]()
        model = getattr(loaded, "model", loaded) if not hasattr(loaded, "deed_family") else loaded
        own = model_bytes(model)
        self._sizes[name] = own + self.cache_bytes
        self._make_room(name)
        metrics = self._counted.setdefault(name, Metrics())
        scheduler = Scheduler(model, cache_bytes=self.cache_bytes, turns=self.turns, metrics=metrics, **self._options)
        served = Served(name, loaded, scheduler, own, self._sizes[name])
        if self._opened is not None:
            self._opened(served)
        return served

    def check_size(self, name: str) -> None:
        """Raises `RequestTooLarge` where a model is larger than the whole budget, as far as its size is known."""
        needed = self._sizes.get(name, 0)
        if self.bytes_budget is not None and needed > self.bytes_budget:
            raise RequestTooLarge(
                f"model {name!r} takes {needed - self.cache_bytes:,} bytes and {self.cache_bytes:,} for keys and values, "
                f"the budget (bytes_budget) is {self.bytes_budget:,}: raise it, or lower cache_bytes"
            )

    def _make_room(self, name: str) -> None:
        """Drop idle models, the longest idle first, until a model fits."""
        self.check_size(name)
        while True:
            with self._changed:
                if self._is_room(self._sizes.get(name, 0)):
                    return
                idle = [served for served in self._loaded.values() if served.idle]
                if not idle:
                    raise QueueFull(f"model {name!r} has no room beside those that are answering; try again", 5.0)
                oldest = min(idle, key=lambda served: served.used)
                del self._loaded[oldest.name]
                self.evicted[oldest.name] += 1
            log.info("model %r is dropped to make room for %r", oldest.name, name)
            self._end(oldest)
            del oldest, idle
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _in_use(self) -> int:
        return sum(served.reserved_bytes for served in self._loaded.values())

    def _is_room(self, needed: int) -> bool:
        return self.bytes_budget is None or self._in_use() + needed <= self.bytes_budget

    def _end(self, served: Served) -> None:
        if self._dropping is not None:
            self._dropping(served)
        served.scheduler.close()

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
            self._end(served)

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def model_bytes(model: Any) -> int:
    """Bytes of a model: parameters, buffers, and what int8 layers keep beside them (`Int8Linear.weight` stands for the packed
    weights, a byte each)."""
    own = [*model.parameters(), *model.buffers()]
    own += [x for module in model.modules() for x in vars(module).values() if isinstance(x, torch.Tensor)]
    return sum(x.nbytes for x in {id(x): x for x in own}.values())
