"""`Scheduler`: continuous batching by rows. A request joins the running batch at the next step and leaves at its own end.

One thread per scheduler computes: it decodes a token of every running row at a time (`decoding.py`), and between two such
steps runs encoders for a while, in micro-batches and in slices (`turns.py`). Schedulers of one device take turns. Requests
wait in a queue until their keys and values fit the budget (`admission.py`). What a request gets are the tokens and depths of
`model.generate()` alone with the same options, whatever runs beside it: every row has its own logits processors, stopping
criteria, generator and exit policy, and the staircase keeps rows of any length and depth apart.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from deed.errors import SchedulerClosed
from deed.modeling.prepared import encode_together, prepare
from deed.modeling.request import taken_over
from deed.modeling.whisper import splits_outputs

from .admission import Admission, Work, lost
from .decoding import Decoding
from .guest import EncoderCall, Guest
from .metrics import Metrics, Stats
from .request import GenerationRequest
from .row import Row
from .ticket import Failed, Finished, Ticket
from .turns import Slices, Turns

log = logging.getLogger(__name__)

# Positions of one encoder call of several rows: on a CPU what is longer is no faster together, since it leaves the caches.
CPU_CELLS, CELLS = 256, 4096
SMALL = 256  # d_model up to which a second thread gains less than handing work over to it costs
GATHERED_S = 0.01  # encoder calls that take no longer wait for more rows
SHORTEST_S, LONGEST_S = 0.002, 0.02  # bounds of an encoder's slice where steps say how long it is


class Scheduler:
    """Runs requests on one model, many at a time. Its thread starts with it and ends with `close()`, or `with` it.

    Args:
        model: a deed model in evaluation mode.
        cache_bytes: what keys, values and states of all rows may come to.
        queue_limit: requests that may wait.
        encoder_rows: most rows of one encoder call.
        encoder_cells: most positions of one call of several rows, padding included; None: as suits the device.
        encoder_slice_s: seconds of encoder work between two steps of running rows; None: as long as a step takes, within
            2 and 20 ms.
        turns: shared by the schedulers of one device; None: its own.
        metrics: counted on, of a scheduler that this one takes the place of; None: from 0.

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
        encoder_cells: int | None = None,
        encoder_slice_s: float | None = None,
        turns: Turns | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        if encoder_cells is None:
            encoder_cells = CPU_CELLS if model.device.type == "cpu" else CELLS
        limits = {"cache_bytes": cache_bytes, "queue_limit": queue_limit, "encoder_rows": encoder_rows}
        for name, value in {**limits, "encoder_cells": encoder_cells}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model, self.encoder_rows, self.encoder_cells = model, encoder_rows, encoder_cells
        self.metrics = metrics or Metrics()
        self.turns = turns or Turns()
        self._slice_s = encoder_slice_s
        self._slices = Slices(model.get_encoder())
        self._numbers = itertools.count()
        self._admission = Admission(model, cache_bytes, queue_limit, self.metrics)
        self._decoding = Decoding(model, self._admission, self.metrics)
        self._threads = 1 if model.deed_family.d_model(model) <= SMALL else None  # of PyTorch's
        self._since = 0.0  # when the encoder began to work without a step between
        self._call_s = self._stepped_s = 0.0  # what an encoder call took lately, and steps within the present one
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="deed-scheduler", daemon=True)
        self._thread.start()

    # -- for callers ----------------------------------------------------------------------------------------------

    @property
    def cache_bytes(self) -> int:
        """What keys, values and states of all rows may come to."""
        return self._admission.cache_bytes

    @property
    def queue_limit(self) -> int:
        """Requests that may wait."""
        return self._admission.queue_limit

    @property
    def encoder_slice_s(self) -> float:
        """Seconds of encoder work between two steps of running rows, one layer more or less."""
        if self._slice_s is not None:
            return self._slice_s
        return min(LONGEST_S, max(SHORTEST_S, self._decoding.step_s))

    def submit(self, request: GenerationRequest) -> Ticket:
        """Take a request. Its options are checked here; what `generate()` would refuse is refused.

        Raises:
            QueueFull: as many wait as may.
            RequestTooLarge: its keys and values alone exceed the budget.
            SchedulerClosed: the scheduler is draining or closed.
            ValueError: its options or inputs; see `modeling.prepared.prepare`.
        """
        self._admission.check_open()
        ticket = Ticket(request)
        if splits_outputs(self.model):
            return self._as_guest(ticket, request)
        prepared = prepare(self.model, request.inputs, {**request.options, "exact": request.exact})
        deadline = None if request.deadline_s is None else ticket.submitted + request.deadline_s
        order = (request.priority, next(self._numbers))
        self._admission.add(Row(ticket, prepared, order, deadline, request.seed, request.confidence), limited=True)
        self.metrics.count(submitted=1)
        ticket.on_cancel(self._admission.cancelled)
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
        with self._admission.changed:
            self._admission.check_room()
        ticket = ticket or Ticket()
        ticket.on_cancel(self._admission.cancelled)
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        return taken_over(Guest(self, ticket, priority, deadline, seed))

    def next_number(self) -> int:
        """The next request's place among those of one priority."""
        return next(self._numbers)

    def enqueue(self, row: Work) -> None:
        """Put part of a guest's work in the queue.

        Raises:
            RequestTooLarge: its keys and values alone exceed the budget.
            SchedulerClosed: the scheduler was closed.
        """
        if isinstance(row, Row):
            row.source = row.prepared.source_length or 1
        self._admission.add(row, limited=False)

    def _as_guest(self, ticket: Ticket, request: GenerationRequest) -> Ticket:
        """Run a request's whole `generate()` in a thread of its own."""
        admission = self._admission
        with admission.changed:
            admission.check_room()
            admission.guests += 1
        deadline = None if request.deadline_s is None else ticket.submitted + request.deadline_s
        guest = Guest(self, ticket, request.priority, deadline, request.seed, request.confidence)
        ticket.on_cancel(admission.cancelled)
        self.metrics.count(submitted=1)

        def run() -> None:
            end: Finished | Failed
            try:
                with taken_over(guest):
                    out = self.model.generate(**request.inputs, **{**request.options, "exact": request.exact})
                tokens = (out if isinstance(out, torch.Tensor) else out["sequences"])[0].tolist()
                took = time.monotonic() - ticket.submitted
                end = Finished(tokens, guest.depths, "stop", total_s=took, accepted=guest.accepted, output=out)
            except Exception as error:
                end = Failed(error)
            with admission.changed:
                admission.guests -= 1
                admission.changed.notify_all()
            admission.count(end.error if isinstance(end, Failed) else None)
            ticket.put(end)

        threading.Thread(target=run, name="deed-guest", daemon=True).start()
        return ticket

    def stats(self) -> Stats:
        """A snapshot of what is counted and timed."""
        admission = self._admission
        with admission.changed:
            live = {
                "queue_length": admission.waiting,
                "running_rows": len(admission.rows),
                "cache_bytes": self._decoding.cache_bytes,
                "cache_bytes_reserved": admission.padded(),
                "cache_bytes_budget": admission.cache_bytes,
                "encoder_slice_s": self.encoder_slice_s,
            }
        return self.metrics.snapshot(**live)

    @property
    def busy(self) -> bool:
        """Whether any request is unanswered."""
        with self._admission.changed:
            return self._admission.busy

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for those that were taken.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            Whether all were answered in time; the others go on until `close()`.
        """
        with self._admission.changed:
            self._admission.draining = True
            return self._admission.changed.wait_for(lambda: not self._admission.busy, timeout)

    def close(self) -> None:
        """End the thread; requests that are not answered fail with `SchedulerClosed`."""
        self._admission.close()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._slices.remove()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        try:
            while self._admission.wait():
                self._work()
        except BaseException:
            log.exception("a scheduler's thread ended")
        finally:
            self._decoding.batches = []
            self._admission.close(SchedulerClosed("the scheduler was closed before this request was answered"))

    def _work(self) -> None:
        """One encoder call, if there is one to be made, and a step, unless the slice allows for another call first."""
        self._decoding.give_up()
        rows = [] if self._gathers() else self._admission.next_call(self.encoder_rows, self.encoder_cells)
        if rows:
            self._encode(rows)
            del rows  # or it would keep them
            if self._admission.fits() and time.monotonic() - self._since < self.encoder_slice_s:
                return
        if self._admission.ready or self._decoding.batches:
            with self.turns.turn(self._threads):
                self._decoding.turn()
        self._since = time.monotonic()

    def _gathers(self) -> bool:
        """Whether sources wait for others, while rows decode: of short ones a few cost as much as one, so that each may wait
        for as long as a call of two takes."""
        if not self._decoding.batches or self._call_s > GATHERED_S:
            return False
        first = self._admission.first
        if first is None or self._admission.waiting >= self.encoder_rows:
            return False
        return time.monotonic() - first.ticket.submitted < 2 * self._call_s

    def _encode(self, rows: list[Work]) -> None:
        began, self._stepped_s = time.monotonic(), 0.0
        if not self._decoding.batches and not self._admission.ready:
            self._since = began  # nobody has waited until now
        with self.turns.turn(self._threads):
            self._slices.run(partial(self._encode_rows, rows), self._between)
        if self._broken is not None:
            raise self._broken
        took = time.monotonic() - began
        self._call_s = (
            took - self._stepped_s if not self._call_s else 0.8 * self._call_s + 0.2 * (took - self._stepped_s)
        )
        with self.metrics.lock:
            self.metrics.now.encode_s.add(took)

    def _between(self) -> None:
        """Between two layers of an encoder: after a slice of that, running rows get a token."""
        began = time.monotonic()
        if began - self._since < self.encoder_slice_s:
            return
        try:
            self._decoding.turn()
        except BaseException as error:  # is not the encoder's, whose caller would take it for that
            self._broken = error
            raise
        self.turns.step_aside()
        self._since = time.monotonic()
        self._stepped_s += self._since - began

    def _encode_rows(self, rows: list[Work]) -> None:
        now, admission = time.monotonic(), self._admission
        for row in list(rows):
            error = lost(row, now)
            if error is not None:
                rows.remove(row)
                admission.end(row, error)
        todo = [row for row in rows if row.prepared.encoder_call is not None]
        if todo:
            try:
                encode_together([row.prepared for row in todo])
            except Exception as error:
                if self._broken is not None:
                    raise
                if len(todo) > 1:  # whose fault it is shows when each runs alone
                    for row in rows:
                        self._encode_rows([row])
                    return
                log.warning("a request's encoder failed: %s", error)
                admission.end(todo[0], error)
                rows = [row for row in rows if row is not todo[0]]
        for row in rows:
            if isinstance(row, EncoderCall):
                admission.end(row, None)
            else:
                admission.encoded(row)
