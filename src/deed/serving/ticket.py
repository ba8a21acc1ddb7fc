"""`Ticket`: what a request's caller holds. Events come as the scheduler decodes; any thread or event loop may read them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Token:
    """A token of the answer.

    Attributes:
        id: of the vocabulary.
        depth: the decoder layer that produced it; in an exact request, at which its draft exited.
        confidence: the probability that its exit gave it, None where the request did not ask for it.
        time: seconds since the request was submitted.
        piece: which generation of the request it is of. Whisper runs one after another, for pieces of the sound and again at
            higher temperatures, and what `Finished` says may leave some out.
    """

    id: int
    depth: int
    confidence: float | None
    time: float
    piece: int = 0


@dataclass(frozen=True)
class Finished:
    """The end of an answered request.

    Attributes:
        tokens: all new tokens, an end token included, as `generate()` gives them.
        depths: of each.
        reason: "stop" for an end token or a stopping criterion, "length" at the most tokens allowed.
        prompt: decoder ids that came before.
        queued_s: seconds until its encoder began; `first_token_s` until its first token; `total_s` until its end.
        accepted: of an exact request, how many tokens are drafts that the last layer agreed with; else None.
        answer_confidence: how likely the answer is to be right, where the request asked for it; else None.
        output: what `generate()` returned, of a request that was taken over as a whole (Whisper); else None.
    """

    tokens: list[int]
    depths: list[int]
    reason: str
    prompt: list[int] = field(default_factory=list)
    queued_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    accepted: int | None = None
    answer_confidence: float | None = None
    output: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Failed:
    """The end of a request that was not answered.

    Attributes:
        error: what went wrong; `RequestCancelled`, `DeadlinePassed` and `SchedulerClosed` among others.
        tokens: those that had come.
        depths: of each.
    """

    error: BaseException
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)


Event = Token | Finished | Failed


class Ticket:
    """A submitted request. Iterating (`for` or `async for`) gives its events, from the first one on, and ends after
    `Finished` or `Failed`; several readers may do so at once.

    Args:
        request: what was submitted.

    Attributes:
        submitted: `time.monotonic()` of that.
    """

    def __init__(self, request: Any = None) -> None:
        self.request = request
        self.submitted = time.monotonic()
        self._cancelled = False
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._on_cancel: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given the request up."""
        return self._cancelled

    @property
    def done(self) -> bool:
        """Whether the last event has come."""
        return bool(self._events) and not isinstance(self._events[-1], Token)

    @property
    def end(self) -> Finished | Failed | None:
        """The last event, None before it has come."""
        last = self._events[-1] if self._events else None
        return None if last is None or isinstance(last, Token) else last

    def cancel(self) -> None:
        """Give the request up. Its row is freed at the next step, and `Failed` with `RequestCancelled` ends the events."""
        self._cancelled = True
        if self._on_cancel is not None and not self.done:
            self._on_cancel()

    def on_cancel(self, act: Callable[[], None]) -> None:
        """Have `act` called when the request is given up (the scheduler's)."""
        self._on_cancel = act
        if self.cancelled:
            act()

    def put(self, event: Event) -> None:
        """Add an event (the scheduler's); after the last one nothing is added."""
        with self._changed:
            if self.done:
                return
            self._events.append(event)
            self._changed.notify_all()
            listeners = list(self._listeners)
        for wake in listeners:
            wake()

    def result(self, timeout: float | None = None) -> Finished:
        """Wait for the end.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: it did not come in time; the request goes on.
            Exception: the request's own error, of a request that failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"the request has not ended within {timeout} seconds")
        end = self.end
        if isinstance(end, Failed):
            raise end.error
        assert isinstance(end, Finished)
        return end

    def __iter__(self) -> Iterator[Event]:
        at = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > at)  # noqa: B023
                new = self._events[at:]
            yield from new
            at += len(new)
            if not isinstance(new[-1], Token):
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(woken.set)

        with self._changed:
            self._listeners.append(wake)
        at = 0
        try:
            while True:
                woken.clear()
                new = self._events[at:]
                for event in new:
                    yield event
                at += len(new)
                if new and not isinstance(new[-1], Token):
                    return
                if not new:
                    await woken.wait()
        finally:
            with self._changed:
                self._listeners.remove(wake)

    async def wait(self) -> Finished:
        """As `result`, in an event loop.

        Raises:
            Exception: the request's own error, of a request that failed.
        """
        async for _ in self:
            pass
        return self.result(0)
