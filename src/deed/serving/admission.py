"""`Admission`: which requests wait, are encoded and run, and whether there is room for another.

Shared by callers' threads, which add requests, and the scheduler's own, which takes them; guarded by one condition.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import deque
from typing import Any

from deed.engine.batch import row_bytes
from deed.errors import DeadlinePassed, QueueFull, RequestCancelled, RequestTooLarge, SchedulerClosed

from .guest import EncoderCall
from .metrics import Metrics
from .row import Row

Work = Row | EncoderCall


class Admission:
    """The requests of one scheduler.

    Args:
        model: a deed model.
        cache_bytes: what keys, values and states of all admitted rows may come to.
        queue_limit: requests that may wait.
        metrics: counts them.

    Attributes:
        changed: held while the following are changed, notified when they are.
        encoding: those in work at the encoder; `ready` encoded ones; `rows` those that decode.
        guests: how many `generate()` calls of their own threads run.
        look: a request was cancelled.
        draining: no more requests are taken; `closing` none are answered.
    """

    def __init__(self, model: Any, cache_bytes: int, queue_limit: int, metrics: Metrics) -> None:
        self.model, self.cache_bytes, self.queue_limit, self.metrics = model, cache_bytes, queue_limit, metrics
        self.changed = threading.Condition()
        self.encoding: list[Work] = []
        self.ready: deque[Row] = deque()
        self.rows: list[Row] = []
        self.guests = 0
        self.look = self.draining = self.closing = False
        self._queue: list[tuple[tuple[int, int], Work]] = []
        self._soonest = math.inf  # no deadline of any request is before this

    # -- for callers ----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def first(self) -> Work | None:
        """The next of the queue."""
        queue = self._queue
        return queue[0][1] if queue else None

    @property
    def busy(self) -> bool:
        """Whether any request is unanswered."""
        return bool(self._queue or self.encoding or self.ready or self.rows or self.guests)

    def add(self, work: Work, limited: bool) -> None:
        """Put a request in the queue.

        Args:
            work: the request, or part of a guest's.
            limited: the queue's limit is for it.

        Raises:
            QueueFull: as many wait as may.
            RequestTooLarge: its keys and values alone exceed the budget.
            SchedulerClosed: no more are taken.
        """
        self.check_size(work)
        with self.changed:
            if limited:
                self.check_room()
            elif self.closing:
                raise SchedulerClosed("the scheduler was closed before this request was answered")
            heapq.heappush(self._queue, (work.order, work))
            if work.deadline is not None:
                self._soonest = min(self._soonest, work.deadline)
            self.changed.notify_all()

    def check_open(self) -> None:
        """Raises `SchedulerClosed` where no more requests are taken."""
        if self.draining:
            raise SchedulerClosed("the scheduler takes no more requests")

    def check_room(self) -> None:
        """Raises `QueueFull` or `SchedulerClosed` where another request could not wait."""
        self.check_open()
        if len(self._queue) >= self.queue_limit:
            self.metrics.count(refused=1)
            rate = self.metrics.request_rate.per_second(time.monotonic())
            wait = min(120.0, max(1.0, len(self._queue) / rate if rate else 1.0))
            raise QueueFull(f"{len(self._queue)} requests wait already; try again in {wait:.0f} s", wait)

    def check_size(self, work: Work) -> None:
        """Raises `RequestTooLarge` where a request can never fit."""
        size = 0 if isinstance(work, EncoderCall) else row_bytes(self.model, work.source, work.prepared.max_length)
        if size > self.cache_bytes:
            raise RequestTooLarge(
                f"the request may need {size:,} bytes of keys and values, the budget (cache_bytes) is "
                f"{self.cache_bytes:,}: ask for fewer new tokens, or a shorter source"
            )

    def cancelled(self) -> None:
        """A request was given up."""
        with self.changed:
            self.look = True
            self.changed.notify_all()

    # -- for the scheduler's thread ---------------------------------------------------------------------------------

    def padded(self, *more: Work) -> int:
        """Bytes that the keys and values of all admitted rows, and of some more, may come to: they lie side by side, each as
        long as the longest."""
        rows = [r for r in (*self.encoding, *self.ready, *self.rows, *more) if isinstance(r, Row)]
        if not rows:
            return 0
        longest = max(row.source for row in rows), max(row.prepared.max_length for row in rows)
        return len(rows) * row_bytes(self.model, *longest)

    def fits(self) -> bool:
        """Whether the first of the queue has room."""
        return bool(self._queue) and self.padded(self._queue[0][1]) <= self.cache_bytes

    def wait(self) -> bool:
        """Wait until there is something to do, or a deadline passes; False: no more requests are answered."""
        with self.changed:
            while not (self.closing or self.ready or self.rows or self.look or self.fits()):
                left = self._soonest - time.monotonic()
                if left <= 0 or not self.changed.wait(None if left == math.inf else left):
                    break
            return not self.closing

    def next_call(self, most_rows: int, most_cells: int) -> list[Work]:
        """The first of the queue, if it has room, and what can be encoded with it; these are in work then.

        Args:
            most_rows: of one call.
            most_cells: positions of one call of several rows, padding included.
        """
        with self.changed:
            if not self.fits():
                return []
            _, first = heapq.heappop(self._queue)
            rows = [first, *self._alike(first, most_rows, most_cells)]
            if len(rows) > 1:
                taken = set(map(id, rows))
                self._queue = [item for item in self._queue if id(item[1]) not in taken]
                heapq.heapify(self._queue)
            for row in rows:
                row.began = time.monotonic()
            self.encoding += rows
            return rows

    def _alike(self, first: Work, most_rows: int, most_cells: int) -> list[Work]:
        """What of the queue can be encoded with its former first."""
        call = first.prepared.encoder_call
        length = first.prepared.source_length or 1
        if call is None or len(call["inputs_tensor"]) > 1 or 2 * length > most_cells:
            return []
        key, longest, found = first.prepared.shape_key, length, list[Work]()
        for _, row in heapq.nsmallest(len(self._queue), self._queue):
            if len(found) + 1 >= most_rows:
                break
            if row.prepared.encoder_call is None or row.prepared.shape_key != key:
                continue
            longest = max(length, row.prepared.source_length or 1)
            if longest * (len(found) + 2) > most_cells or longest > 1.5 * length:
                continue
            if self.padded(first, *found, row) > self.cache_bytes:
                break
            found.append(row)
        return found

    def lost(self) -> list[tuple[Work, BaseException]]:
        """Those that were cancelled, or whose deadline has passed; looked for only where there may be any. Of these, rows that
        decode are still to leave their batch, and the others have left the queue."""
        now = time.monotonic()
        if not self.look and now < self._soonest:
            return []
        with self.changed:
            self.look = False
            everyone = [*(work for _, work in self._queue), *self.encoding, *self.ready, *self.rows]
            left = [work.deadline for work in everyone if work.deadline is not None and work.deadline > now]
            self._soonest = min(left, default=math.inf)
            found = [(work, why) for _, work in self._queue if (why := lost(work, now)) is not None]
            if found:
                gone = {id(work) for work, _ in found}
                self._queue = [item for item in self._queue if id(item[1]) not in gone]
                heapq.heapify(self._queue)
            return found + [(row, why) for row in self.rows if (why := lost(row, now)) is not None]

    def encoded(self, row: Row) -> None:
        """A row's encoder has run."""
        row.source = row.prepared.source_length or 1
        try:
            self.check_size(row)
        except RequestTooLarge as error:
            self.end(row, error)
            return
        with self.changed:
            self.encoding.remove(row)
            self.ready.append(row)

    def take_ready(self) -> list[Row]:
        """Encoded rows, which decode from now on."""
        with self.changed:
            ready = list(self.ready)
            self.ready.clear()
            self.rows += ready
            return ready

    def end(self, work: Work, error: BaseException | None, reason: str = "") -> None:
        """Answer a request that holds no row of a batch any more.

        Args:
            work: the request.
            error: why it was not answered; None: it was.
            reason: why its answer ended.
        """
        with self.changed:
            places: tuple[Any, ...] = (self.rows, self.encoding, self.ready)
            for place in places:
                if work in place:
                    place.remove(work)
            self.changed.notify_all()
        if work.counts:
            self.count(error)
        if error is None:
            work.finish(reason)
        else:
            work.fail(error)

    def count(self, error: BaseException | None) -> None:
        """Count a request that has ended."""
        kinds: dict[type, str] = {RequestCancelled: "cancelled", DeadlinePassed: "expired", type(None): "finished"}
        self.metrics.count(**{kinds.get(type(error), "failed"): 1})
        with self.metrics.lock:
            self.metrics.request_rate.add(1, time.monotonic())

    def close(self, error: BaseException | None = None) -> None:
        """Take no more requests and answer none.

        Args:
            error: what those that are left fail with; None: they are told later.
        """
        with self.changed:
            self.draining = self.closing = True
            self.changed.notify_all()
            left = [*(work for _, work in self._queue), *self.encoding, *self.ready, *self.rows]
            if error is not None:
                self._queue.clear()
        if error is not None:
            for work in left:
                self.end(work, error)


def lost(work: Work, now: float) -> BaseException | None:
    """Why a request is to be given up.

    Args:
        work: the request.
        now: `time.monotonic()`.
    """
    if work.ticket.cancelled:
        return RequestCancelled("the request was cancelled")
    if work.deadline is not None and now >= work.deadline:
        return DeadlinePassed("the request's deadline passed before its answer was complete")
    return None
