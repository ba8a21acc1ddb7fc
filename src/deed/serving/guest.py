"""A whole `generate()` as a guest of a scheduler: it runs in a thread of its own, its encoder calls and decoding loops in the
scheduler, among everyone else's.

This is how Whisper is served, whose `generate()` runs one generation after another, and how code that calls `generate()`
itself (a `deed.pipeline`) joins the running batch.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from deed.modeling.prepared import Prepared, finish_generation, of_rows, waiting_call
from deed.modeling.request import Request

from .row import Row
from .ticket import Event, Failed, Finished, Ticket, Token

if TYPE_CHECKING:
    from .scheduler import Scheduler


class InnerTicket(Ticket):
    """Of one inner generation: its tokens go to the outer ticket.

    Args:
        outer: the caller's.
        piece: the number of the generation.
    """

    def __init__(self, outer: Ticket, piece: int) -> None:
        super().__init__(outer.request)
        self.submitted, self._outer, self._piece = outer.submitted, outer, piece

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given the request up."""
        return self._outer.cancelled

    def put(self, event: Event) -> None:
        """Add an event, see `Ticket.put`."""
        super().put(event)
        if isinstance(event, Token):
            self._outer.put(replace(event, piece=self._piece))


class EncoderCall:
    """An encoder call in the queue that a thread waits for; to the scheduler a row that is never decoded.

    Args:
        ticket: of the request.
        prepared: with the call.
        order: see `Row`.
        deadline: see `Row`.
    """

    counts = False  # it is no request of its own

    def __init__(self, ticket: Ticket, prepared: Prepared, order: tuple[int, int], deadline: float | None) -> None:
        self.ticket, self.prepared, self.order, self.deadline = ticket, prepared, order, deadline
        self.began = 0.0
        self.done = threading.Event()
        self.error: BaseException | None = None

    def finish(self, reason: str) -> None:
        """The call was run."""
        self.done.set()

    def fail(self, error: BaseException) -> None:
        """It was not."""
        self.error = error
        self.done.set()


class Guest:
    """`modeling.request.TakesOver` for the calls of one request.

    Args:
        scheduler: runs them.
        ticket: gets the tokens of all inner generations.
        priority: of the request.
        deadline: `time.monotonic()` after which it fails.
        seed: of sampling: one generator for all inner generations, one after the other.
        confidence: whether tokens come with theirs.

    Attributes:
        depths: of all tokens so far, of all inner generations.
        accepted: of an exact request, how many of them are drafts that stood; else None.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ticket: Ticket,
        priority: int = 0,
        deadline: float | None = None,
        seed: int | None = None,
        confidence: bool = False,
    ) -> None:
        self.scheduler, self.ticket, self.priority, self.deadline = scheduler, ticket, priority, deadline
        self.confidence, self.depths = confidence, list[int]()
        self.accepted: int | None = None
        self._pieces = 0
        self._generator = torch.Generator(scheduler.model.device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def encode(self, model: Any, call: dict[str, Any]) -> dict[str, Any]:
        """See `TakesOver.encode`."""
        job = EncoderCall(
            self.ticket, waiting_call(model, call), (self.priority, self.scheduler.next_number()), self.deadline
        )
        self.scheduler.enqueue(job)
        job.done.wait()
        if job.error is not None:
            raise job.error
        return {**call["model_kwargs"], **job.prepared.model_kwargs}

    def decode(self, model: Any, request: Request, call: dict[str, Any]) -> Any:
        """See `TakesOver.decode`: every row by itself, all of them at once.

        Args:
            model: the scheduler's.
            request: the running call.
            call: of `_sample`.

        Raises:
            ValueError: rows that cannot be told apart (`modeling.prepared.of_rows`).
        """
        streamer, rows = call["streamer"], []
        if streamer is not None and len(call["input_ids"]) > 1:
            raise ValueError("a streamer follows one row: leave it out, or generate one at a time")
        for prepared in of_rows(model, request, call):
            inner = InnerTicket(self.ticket, self._pieces)
            self._pieces += 1
            order = (self.priority, self.scheduler.next_number())
            row = Row(inner, prepared, order, self.deadline, self._generator, self.confidence)
            row.counts = False
            rows.append(row)
        for row in rows:
            self.scheduler.enqueue(row)
        ends: list[Finished | Failed] = []
        for row in rows:
            for event in row.ticket:
                if not isinstance(event, Token):
                    ends.append(event)
                elif streamer is not None:
                    streamer.put(torch.tensor([event.id]))
        for end in ends:
            if isinstance(end, Failed):
                raise end.error
            self.depths += end.depths
            if end.accepted is not None:
                self.accepted = (self.accepted or 0) + end.accepted
        if streamer is not None:
            streamer.end()
        return finish_generation(
            model, call, [row.tokens for row in rows], [end.depths for end in ends], [row.kept for row in rows]
        )
