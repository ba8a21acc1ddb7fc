"""A replica of `deed serve --ray`: the HTTP application of one process, asked by messages in place of a socket.

Each replica holds some of the models, every one with a scheduler of its own, so that requests which meet in a replica share
its running batch. The application is that of a single machine; what the ingress receives is handed to it as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from ray import serve

from .ray_metrics import Reporter

Message = dict[str, Any]
Make = Callable[[str], tuple[Any, Callable[[], None]]]
LEAVING_S = 5.0  # until an application whose reader has left is given up


class Held:
    """A model's application, ended when it is given up and its last request is answered. Serve gives it up by `__del__`.

    Args:
        app: ASGI.
        end: ends it.
    """

    def __init__(self, app: Any, end: Callable[[], None]) -> None:
        self.app, self._end = app, end
        self._users, self._given_up = 0, False
        self._lock = threading.Lock()

    def __enter__(self) -> Any:
        with self._lock:
            self._users += 1
        return self.app

    def __exit__(self, *exception: Any) -> None:
        with self._lock:
            self._users -= 1
        self._end_if_idle()

    def __del__(self) -> None:
        self._given_up = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        with self._lock:
            over = self._given_up and self._users == 0
            end, self._end = (self._end, _nothing) if over else (_nothing, self._end)
        with contextlib.suppress(Exception):  # at the interpreter's end nothing may be left to call
            end()


def _nothing() -> None:
    pass


def replica_class(most: int) -> type:
    """The class that is deployed.

    Args:
        most: models that a replica holds; the one that was not asked for longest makes room.
    """

    class Replica:
        """Answers requests for models.

        Args:
            make: `make(name)` gives the application of a model, loaded and ready, and a function that ends it; runs in a
                thread.
            first: models that are loaded before requests come.
            collector: handle of what metrics are reported to, every so many seconds (`ray_metrics.py`).
        """

        async def __init__(  # type: ignore[misc]  # Serve awaits it
            self, make: Make, first: Sequence[str], collector: Any, every_s: float
        ) -> None:
            self.make = make
            self.reporter = Reporter(collector, serve.get_replica_context().replica_id.unique_id, every_s)
            for name in first:
                await self.model(name)

        @serve.multiplexed(max_num_models_per_replica=most)
        async def model(self, name: str) -> Held:
            app, end = await asyncio.to_thread(self.make, name)
            self.reporter.add(name, app)
            return Held(app, end)

        async def call(self, name: str, scope: Message, body: bytes) -> AsyncGenerator[Message, None]:
            with await self.model(name) as app:
                async for message in answers(app, scope, body):
                    yield message

    return Replica


async def answers(app: Any, scope: Message, body: bytes) -> AsyncGenerator[Message, None]:
    """What an ASGI application sends. Where the reader leaves, the application is told that the client is gone.

    Args:
        app: ASGI.
        scope: of the request.
        body: of the request.

    Raises:
        Exception: of the application, where it raises one.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await sent.put(dict(message))

    async def work() -> None:
        try:
            await app({**scope, "type": "http", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        finally:
            await sent.put(None)

    task = asyncio.create_task(work())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await task
    finally:
        gone.set()
        if not task.done():
            await asyncio.wait({task}, timeout=LEAVING_S)
            task.cancel()
