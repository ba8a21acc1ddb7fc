"""`Scheduler`: continuous batching by rows. A request joins the running batch at the next step and leaves at its own end.

Two threads per device take turns (`turns.py`): one runs encoders, in micro-batches and in slices; the other decodes, a token
of every running row at a time. Requests wait in a queue until their keys and values fit the budget. What a request gets are
the tokens and depths of `model.generate()` alone with the same options, whatever runs beside it: every row has its own
logits processors, stopping criteria, generator and exit policy, and the staircase keeps rows of any length and depth apart.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from deed.engine.batch import RunningBatch, row_bytes
from deed.errors import DeadlinePassed, QueueFull, RequestCancelled, RequestTooLarge, SchedulerClosed
from deed.modeling.prepared import encode_together, prepare
from deed.modeling.request import taken_over
from deed.modeling.whisper import splits_outputs

from .guest import EncoderCall, Guest
from .metrics import Metrics, Stats
from .request import GenerationRequest
from .row import Row
from .ticket import Failed, Finished, Ticket
from .turns import Slices, Turns

log = logging.getLogger(__name__)


class Scheduler:
    """Runs requests on one model, many at a time. Threads start with it and end with `close()`, or `with` it.

    Args:
        model: a deed model in evaluation mode.
        cache_bytes: what keys, values and states of all rows may come to.
        queue_limit: requests that may wait.
        encoder_rows: most rows of one encoder call; `encoder_cells` most positions of one, padding included.
        encoder_slice_s: seconds of encoder work between two steps of running rows.
        turns: shared by the schedulers of one device; None: its own.

    Raises:
        ValueError: a limit below 1.

    Example:
        ```python
        with Scheduler(model) as scheduler:
            ticket = scheduler.submit(GenerationRequest(dict(inputs), {"max_new_tokens": 8}))
            tokens = ticket.result(timeout=60).tokens
        ```
    """

    def __init__(
        self,
        model: Any,
        *,
        cache_bytes: int = 1 << 30,
        queue_limit: int = 256,
        encoder_rows: int = 8,
        encoder_cells: int = 4096,
        encoder_slice_s: float = 0.02,
        turns: Turns | None = None,
    ) -> None:
        limits = {"cache_bytes": cache_bytes, "queue_limit": queue_limit, "encoder_rows": encoder_rows}
        for name, value in {**limits, "encoder_cells": encoder_cells}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model, self.cache_bytes, self.queue_limit = model, cache_bytes, queue_limit
        self.encoder_rows, self.encoder_cells = encoder_rows, encoder_cells
        self.metrics = Metrics()
        self.turns = turns or Turns()
        self._slices = Slices(model.get_encoder(), self.turns, encoder_slice_s)
        self._numbers = itertools.count()
        self._changed = threading.Condition()  # guards what follows
        self._queue: list[tuple[tuple[int, int], Row | EncoderCall]] = []
        self._encoding: list[Row | EncoderCall] = []
        self._ready: deque[Row] = deque()
        self._rows: list[Row] = []
        self._guests = 0
        self._look = False  # a row was cancelled
        self._draining = self._closing = False
        self._batches: list[tuple[RunningBatch, list[Row]]] = []  # the decoding thread's
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"deed-{name}", daemon=True)
            for name, work in (("decode", self._decode), ("encode", self._encode))
        ]
        for thread in self._threads:
            thread.start()

    # -- for callers ----------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> Ticket:
        """Take a request. Its options are checked here; what `generate()` would refuse is refused.

        Raises:
            QueueFull: as many wait as may.
            RequestTooLarge: its keys and values alone exceed the budget.
            SchedulerClosed: the scheduler is draining or closed.
            ValueError: its options or inputs; see `modeling.prepared.prepare`.
        """
        self._check_open()
        ticket = Ticket(request)
        if splits_outputs(self.model):
            return self._as_guest(ticket, request)
        prepared = prepare(self.model, request.inputs, {**request.options, "exact": request.exact})
        deadline = None if request.deadline_s is None else ticket.submitted + request.deadline_s
        order = (request.priority, next(self._numbers))
        row = Row(ticket, prepared, order, deadline, request.seed, request.confidence)
        self._check_size(row)
        with self._changed:
            self._check_room()
            heapq.heappush(self._queue, (row.order, row))
            self._changed.notify_all()
        self.metrics.count(submitted=1)
        ticket.on_cancel(self._cancelled)
        return ticket

    def guest(
        self,
        ticket: Ticket | None = None,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        seed: int | None = None,
    ) -> AbstractContextManager[None]:
        """Within, every `generate()` of the model in this thread (that of a pipeline, say) has its encoder calls and
        decoding loops run here, among all other rows. Greedy search and sampling.

        Args:
            ticket: gets the tokens as they come, and may be cancelled; None: nobody listens.
            priority: as of a request.
            deadline_s: from now on; what is not done by then raises `DeadlinePassed`.
            seed: of sampling.

        Raises:
            QueueFull: as many requests wait as may.
            SchedulerClosed: the scheduler is draining or closed.
        """
        with self._changed:
            self._check_room()
        ticket = ticket or Ticket()
        ticket.on_cancel(self._cancelled)
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        return taken_over(Guest(self, ticket, priority, deadline, seed))

    def next_number(self) -> int:
        """The next request's place among those of one priority."""
        return next(self._numbers)

    def enqueue(self, row: Row | EncoderCall) -> None:
        """Put part of a guest's work in the queue.

        Raises:
            RequestTooLarge: its keys and values alone exceed the budget.
            SchedulerClosed: the scheduler was closed.
        """
        if isinstance(row, Row):
            row.source = row.prepared.source_length or 1
        self._check_size(row)
        with self._changed:
            if self._closing:
                raise SchedulerClosed("the scheduler was closed before this request was answered")
            heapq.heappush(self._queue, (row.order, row))
            self._changed.notify_all()

    def _as_guest(self, ticket: Ticket, request: GenerationRequest) -> Ticket:
        """Run a request's whole `generate()` in a thread of its own."""
        with self._changed:
            self._check_room()
            self._guests += 1
        deadline = None if request.deadline_s is None else ticket.submitted + request.deadline_s
        guest = Guest(self, ticket, request.priority, deadline, request.seed, request.confidence)
        ticket.on_cancel(self._cancelled)
        self.metrics.count(submitted=1)

        def run() -> None:
            end: Finished | Failed
            try:
                with taken_over(guest):
                    out = self.model.generate(**request.inputs, **{**request.options, "exact": request.exact})
                tokens = (out if isinstance(out, torch.Tensor) else out["sequences"])[0].tolist()
                took = time.monotonic() - ticket.submitted
                end = Finished(tokens, guest.depths, "stop", total_s=took, output=out)
            except Exception as error:
                end = Failed(error)
            with self._changed:
                self._guests -= 1
                self._changed.notify_all()
            self._count(end.error if isinstance(end, Failed) else None)
            ticket.put(end)

        threading.Thread(target=run, name="deed-guest", daemon=True).start()
        return ticket

    def stats(self) -> Stats:
        """A snapshot of what is counted and timed."""
        with self._changed:
            live = {
                "queue_length": len(self._queue),
                "running_rows": len(self._rows),
                "cache_bytes": sum(batch.cache_bytes for batch, _ in self._batches),
                "cache_bytes_reserved": self._padded(),
                "cache_bytes_budget": self.cache_bytes,
            }
        return self.metrics.snapshot(**live)

    @property
    def busy(self) -> bool:
        """Whether any request is unanswered."""
        with self._changed:
            return self._is_busy()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for those that were taken.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            Whether all were answered in time; the others go on until `close()`.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._is_busy(), timeout)

    def close(self) -> None:
        """End the threads; requests that are not answered fail with `SchedulerClosed`."""
        with self._changed:
            self._draining = self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._slices.remove()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    # -- both threads ---------------------------------------------------------------------------------------------

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException:
            log.exception("a scheduler's thread ended")
            with self._changed:
                self._draining = self._closing = True
                self._changed.notify_all()
        finally:
            self._fail_all(SchedulerClosed("the scheduler was closed before this request was answered"))

    def _check_open(self) -> None:
        if self._draining:
            raise SchedulerClosed("the scheduler takes no more requests")

    def _check_size(self, row: Row | EncoderCall) -> None:
        size = 0 if isinstance(row, EncoderCall) else row_bytes(self.model, row.source, row.prepared.max_length)
        if size > self.cache_bytes:
            raise RequestTooLarge(
                f"the request may need {size:,} bytes of keys and values, the budget (cache_bytes) is "
                f"{self.cache_bytes:,}: ask for fewer new tokens, or a shorter source"
            )

    def _padded(self, *more: Row | EncoderCall) -> int:
        """Bytes that the keys and values of all admitted rows, and of some more, may come to: they lie side by side, each as
        long as the longest."""
        rows = [r for r in (*self._encoding, *self._ready, *self._rows, *more) if isinstance(r, Row)]
        if not rows:
            return 0
        return len(rows) * row_bytes(
            self.model, max(row.source for row in rows), max(row.prepared.max_length for row in rows)
        )

    def _check_room(self) -> None:
        self._check_open()
        if len(self._queue) >= self.queue_limit:
            self.metrics.count(refused=1)
            wait = self._retry_after()
            raise QueueFull(f"{len(self._queue)} requests wait already; try again in {wait:.0f} s", wait)

    def _is_busy(self) -> bool:
        return bool(self._queue or self._encoding or self._ready or self._rows or self._guests)

    def _retry_after(self) -> float:
        rate = self.metrics.request_rate.per_second(time.monotonic())
        return min(120.0, max(1.0, len(self._queue) / rate if rate else 1.0))

    def _cancelled(self) -> None:
        with self._changed:
            self._look = True
            self._changed.notify_all()

    def _end(self, row: Row | EncoderCall, error: BaseException | None, reason: str = "") -> None:
        """Answer a request that holds no row of a batch any more."""
        with self._changed:
            places: tuple[Any, ...] = (self._encoding, self._ready, self._rows)
            for place in places:
                if row in place:
                    place.remove(row)
            self._changed.notify_all()
        if row.counts:
            self._count(error)
        if error is None:
            row.finish(reason)
        else:
            row.fail(error)

    def _count(self, error: BaseException | None) -> None:
        """Count a request that has ended."""
        kinds: dict[type, str] = {RequestCancelled: "cancelled", DeadlinePassed: "expired", type(None): "finished"}
        self.metrics.count(**{kinds.get(type(error), "failed"): 1})
        with self.metrics.lock:
            self.metrics.request_rate.add(1, time.monotonic())

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            rows = [row for _, row in self._queue] + self._encoding + list(self._ready) + self._rows
            self._queue.clear()
        self._batches = []
        for row in rows:
            self._end(row, error)

    def _lost(self, row: Row | EncoderCall, now: float) -> BaseException | None:
        """Why a row is to be given up."""
        if row.ticket.cancelled:
            return RequestCancelled("the request was cancelled")
        if row.deadline is not None and now >= row.deadline:
            return DeadlinePassed("the request's deadline passed before its answer was complete")
        return None

    # -- encoding -------------------------------------------------------------------------------------------------

    def _encode(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._fits())
                if self._closing:
                    return
                rows = self._next_call()
            began = time.monotonic()
            self._slices.run(partial(self._encode_rows, rows))
            del rows  # or an idle thread would keep them
            with self.metrics.lock:
                self.metrics.now.encode_s.add(time.monotonic() - began)

    def _fits(self) -> bool:
        return bool(self._queue) and self._padded(self._queue[0][1]) <= self.cache_bytes

    def _next_call(self) -> list[Row | EncoderCall]:
        """The first of the queue, and what can be encoded with it."""
        _, first = heapq.heappop(self._queue)
        rows, call = [first], first.prepared.encoder_call
        key = first.prepared.shape_key if call is not None and len(call["inputs_tensor"]) == 1 else None
        length = first.prepared.source_length or 1
        for _, row in heapq.nsmallest(len(self._queue), self._queue) if key else []:
            if len(rows) >= self.encoder_rows:
                break
            if row.prepared.encoder_call is None or row.prepared.shape_key != key:
                continue
            longest = max(length, row.prepared.source_length or 1)
            if longest * (len(rows) + 1) > self.encoder_cells or longest > 1.5 * length:
                continue
            if self._padded(*rows, row) > self.cache_bytes:
                break
            rows.append(row)
        taken = set(map(id, rows))
        self._queue = [item for item in self._queue if id(item[1]) not in taken]
        heapq.heapify(self._queue)
        for row in rows:
            row.began = time.monotonic()
        self._encoding += rows
        return rows

    def _encode_rows(self, rows: list[Row | EncoderCall]) -> None:
        now = time.monotonic()
        for row in list(rows):
            error = self._lost(row, now)
            if error is not None:
                rows.remove(row)
                self._end(row, error)
        todo = [row for row in rows if row.prepared.encoder_call is not None]
        if todo:
            try:
                encode_together([row.prepared for row in todo])
            except Exception as error:
                if len(todo) > 1:  # whose fault it is shows when each runs alone
                    for row in todo:
                        self._encode_rows([row])
                    return
                log.warning("a request's encoder failed: %s", error)
                self._end(todo[0], error)
                rows = [row for row in rows if row is not todo[0]]
        for row in rows:
            self._encoded(row)

    def _encoded(self, row: Row | EncoderCall) -> None:
        if isinstance(row, EncoderCall):
            self._end(row, None)
            return
        row.source = row.prepared.source_length or 1
        try:
            self._check_size(row)
        except RequestTooLarge as error:
            self._end(row, error)
            return
        with self._changed:
            self._encoding.remove(row)
            self._ready.append(row)
            self._changed.notify_all()

    # -- decoding -------------------------------------------------------------------------------------------------

    def _decode(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._ready or self._rows or self._look):
                    if not self._changed.wait(self._until_deadline()):
                        break
                if self._closing:
                    return
                self._look = False
                ready = list(self._ready)
                self._rows += ready
                self._ready.clear()
            self._give_up()
            if ready or self._batches:
                self._turn(ready)
            del ready  # or an idle thread would keep it

    def _turn(self, ready: list[Row]) -> None:
        """Let rows join, and decode a token of every running one."""
        with self.turns.turn():
            self._join(ready)
            for batch, rows in list(self._batches):
                self._step(batch, rows)

    def _until_deadline(self) -> float | None:
        times = [row.deadline for _, row in self._queue if row.deadline is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _give_up(self) -> None:
        """Free what was cancelled or has come too late."""
        now = time.monotonic()
        with self._changed:
            waiting = [(row, self._lost(row, now)) for _, row in self._queue]
            lost = [(row, error) for row, error in waiting if error is not None]
            if lost:
                away = {id(row) for row, _ in lost}
                self._queue = [item for item in self._queue if id(item[1]) not in away]
                heapq.heapify(self._queue)
        for row, error in lost:
            self._end(row, error)
        for batch, rows in list(self._batches):
            ended = {id(row): why for row in rows if (why := self._lost(row, now)) is not None}
            gone = [row for row in rows if id(row) in ended]
            if gone:
                self._leave(batch, rows, gone)
            for row in gone:
                self._end(row, ended[id(row)])

    def _join(self, ready: Iterable[Row]) -> None:
        """Let encoded rows join the first batch that they can share, or begin one."""
        for row in ready:
            error = self._lost(row, time.monotonic())
            if error is not None:
                self._end(row, error)
                continue
            new = row.start()
            for batch, rows in self._batches:
                try:
                    batch.add(new)
                except ValueError:
                    continue
                rows.append(row)
                break
            else:
                batch = RunningBatch(self.model)
                try:
                    batch.add(new)
                except Exception as refusal:
                    self._end(row, refusal)
                    continue
                self._batches.append((batch, [row]))

    def _leave(self, batch: RunningBatch, rows: list[Row], gone: list[Row]) -> None:
        lost = {id(row) for row in gone}
        order = batch.leave({i for i, row in enumerate(rows) if id(row) in lost})
        rows[:] = [rows[i] for i in order]
        if not rows:
            self._batches = [(b, r) for b, r in self._batches if b is not batch]

    def _step(self, batch: RunningBatch, rows: list[Row]) -> None:
        """A token for every row of a batch; rows that end, or fail, leave it."""
        began = time.monotonic()
        tokens = [row.tokens[-1] for row in rows]
        failed: dict[int, BaseException] = {}
        try:
            logits, depths = batch.step(tokens)
        except Exception as error:
            logits, depths, failed = self._step_alone(batch, rows, error)
        chosen, confidences = self._choose(rows, logits, failed)
        now = time.monotonic()
        self.metrics.stepped(now - began, len(rows) - len(failed), now)
        ended: list[tuple[Row, BaseException | None, str]] = []
        for r, row in enumerate(rows):
            if r in failed:
                ended.append((row, failed[r], ""))
                continue
            gap, first = row.stepped and now - row.stepped, None if row.first else now - row.ticket.submitted
            self.metrics.token(depths[r], gap, first)
            try:
                reason = row.take(chosen[r], depths[r], confidences[r], now)
            except Exception as error:  # a stopping criterion's
                ended.append((row, error, ""))
                continue
            if reason is not None:
                ended.append((row, None, reason))
        if ended:
            self._leave(batch, rows, [row for row, *_ in ended])
            for row, why, reason in ended:
                self._end(row, why, reason or "")

    def _step_alone(
        self, batch: RunningBatch, rows: list[Row], error: Exception
    ) -> tuple[torch.Tensor, list[int], dict[int, BaseException]]:
        """A step that raised, once more row by row, to find out whose fault it is."""
        log.warning("a step of %d rows failed and is run row by row: %s", len(rows), error)
        failed: dict[int, BaseException] = {}
        found: list[torch.Tensor | None] = []
        depths: list[int] = []
        for r, row in enumerate(rows):
            try:
                logits, depth = batch.step_one(r, row.tokens[-1])
                found.append(logits)
                depths.append(depth)
            except Exception as own:
                failed[r] = own
                found.append(None)
                depths.append(0)
        like = next((x for x in found if x is not None), None)
        if like is None:
            return torch.zeros(len(rows), 1), depths, failed
        return torch.cat([torch.zeros_like(like) if x is None else x for x in found]), depths, failed

    def _choose(
        self, rows: list[Row], logits: torch.Tensor, failed: dict[int, BaseException]
    ) -> tuple[list[int], list[float | None]]:
        """Each row's token by its own processors and generator, and the confidence in it."""
        best = logits.to(torch.float32).argmax(-1).tolist()
        for r, row in enumerate(rows):
            if r not in failed and not row.is_plain:
                try:
                    best[r] = row.choose(logits[r : r + 1])
                except Exception as error:  # a processor's
                    failed[r] = error
        confidences: list[float | None] = [None] * len(rows)
        wanted = [r for r, row in enumerate(rows) if row.confidence and r not in failed]
        if wanted:
            part = logits if len(wanted) == len(rows) else logits[wanted]
            part = part.to(torch.float32)
            at = torch.tensor([best[r] for r in wanted], device=part.device)[:, None]
            chances = (part.gather(1, at)[:, 0] - part.logsumexp(-1)).exp().tolist()
            for r, chance in zip(wanted, chances, strict=True):
                confidences[r] = chance
        return best, confidences
