"""`ServerState`: what all endpoints of one server share: settings, models, readers, counters, whether it is about to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
from fastapi import Request

from deed.utils.shipped import DOCUMENTS, PAPERWORK

from .api_errors import ApiError
from .models import Models
from .observing import HttpMetrics
from .security import Keys
from .served import ByPage, ServedModel
from .settings import ServeSettings
from .turns import in_one_thread

T = TypeVar("T")
HOLDS = "deed.holds"  # in a request's scope: an `ExitStack`, closed when it is answered


class ServerState:
    """Made once for an application.

    Args:
        settings: of the server.
        models: that it serves.

    Attributes:
        draining: no requests are taken any more.
        running: requests being answered.
        metrics: of HTTP.
    """

    def __init__(self, settings: ServeSettings, models: Models) -> None:
        self.settings, self.models = settings, models
        self.keys = Keys(settings.keys)
        self.metrics = HttpMetrics()
        self.draining = False
        self.running = 0
        self.metrics.running.set_function(lambda: self.running)
        self._readers: anyio.CapacityLimiter | None = None
        self._loaders: anyio.CapacityLimiter | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.models.ready and not self.draining

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """Run what blocks in a thread of the readers.

        Args:
            work: what to run.
            args: its arguments.
        """
        if self._readers is None:
            self._readers = anyio.CapacityLimiter(int(self.settings.limits.readers))
        return await anyio.to_thread.run_sync(partial(in_one_thread, work, *args), limiter=self._readers)

    async def model(self, request: Request, name: str | None, *tasks: str) -> ServedModel:
        """The model of a name, or the first that can do one of the tasks; loaded first where it is not, and kept until the
        request is answered.

        Args:
            request: that it is for.
            name: as the client says it; None: any.
            tasks: names of pipelines.

        Raises:
            ApiError: there is none, it has no room now, or models are still being loaded.
        """
        if not self.models.ready:
            raise ApiError(503, "models are still being loaded", retry_after=5)
        chosen = self.models.choose(name, tasks)
        hold = self.models.hold_loaded(chosen)
        if hold is None:
            if self._loaders is None:
                self._loaders = anyio.CapacityLimiter(1)  # one is loaded at a time
            if self._loaders.statistics().tasks_waiting >= self.settings.limits.queue:
                raise ApiError(429, "too many requests wait for models to be loaded; try again later", retry_after=5)
            hold = await anyio.to_thread.run_sync(self.models.hold, chosen, limiter=self._loaders)
        request.scope[HOLDS].callback(hold.release)
        return hold.served

    async def by_page(self, request: Request, name: str | None, served: ServedModel) -> ByPage:
        """The models that a page may be for; one, unless the client names none and both shipped ones are served.

        Args:
            request: that it is for.
            name: as the client says it.
            served: the model for it, whatever is on the page.
        """
        both = name is None and served.name == DOCUMENTS and self.models.suits_pages
        return ByPage(served, await self.model(request, PAPERWORK) if both else None)

    def check_text(self, text: str, param: str) -> str:
        """The text, if it is not too long.

        Args:
            text: of a request.
            param: its field.

        Raises:
            ApiError: more letters than the limit, or nothing.
        """
        limit = self.settings.limits.text_chars
        if len(text) > limit:
            raise ApiError(413, f"{param} has {len(text):,} letters, the limit is {limit:,}", param)
        if not text.strip():
            raise ApiError(400, f"{param} is empty", param)
        return text


def state_of(request: Request) -> ServerState:
    """The server that a request came to."""
    found: ServerState = request.app.state.server
    return found


async def until_gone(request: Request) -> None:
    """Returns when the client has closed its connection; the body has to be read by then."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


async def answered(request: Request, work: Any) -> Any:
    """Await an answer while watching the connection: once the client is gone, the work is given up, and with it its tickets.

    Args:
        request: whose body has been read.
        work: a coroutine.

    Raises:
        ApiError: the client is gone (nobody reads it).
        Exception: of the work.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "the client has closed the connection")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
