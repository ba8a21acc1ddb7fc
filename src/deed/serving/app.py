"""The HTTP application of `deed serve`: endpoints, the page, and what stands in front of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from deed.constants import __version__

from . import api_errors
from .endpoints import about, ask, audio, generate, page, translate
from .models import Models
from .security import Guard
from .settings import ServeSettings
from .state import HOLDS, ServerState

TITLE = "deed"
ABOUT = (
    "Encoder-decoder models with early exit. Files and addresses that a request names are never opened; errors come as "
    '`{"error": {"message", "type", "param", "code"}}`.'
)


def create_app(settings: ServeSettings, models: Models | None = None) -> FastAPI:
    """The application.

    Args:
        settings: of the server.
        models: loaded already; None: `models.load()` is called by whoever runs the application (`worker.py`).

    Returns:
        A FastAPI application; `app.state.server` is its `ServerState`.
    """
    server = ServerState(settings, models or Models(settings))
    server.metrics.watch(server.models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if models is None:  # else they are their giver's
            server.models.close()

    app = FastAPI(
        title=TITLE, description=ABOUT, version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.server = server
    for endpoints in (generate, ask, audio, translate, about, page):
        app.include_router(endpoints.router)
    api_errors.install(app)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    paths = {"/", "/docs", *app.openapi()["paths"]}
    app.add_middleware(
        Guard, settings=settings, keys=server.keys, draining=lambda: server.draining, body_keys=api_errors.LIBRE
    )
    app.add_middleware(_Counted, server=server, paths=paths)
    return app


class _Counted:
    """Counts and times requests, by known paths: others are one. What a request holds is released when it is answered."""

    def __init__(self, app: Any, server: ServerState, paths: set[str]) -> None:
        self.app, self.server, self.metrics, self.paths = app, server, server.metrics, paths

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        status, began = 500, time.perf_counter()

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.server.running += 1
        try:
            with ExitStack() as scope[HOLDS]:
                await self.app(scope, receive, watched)
        finally:
            self.server.running -= 1
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)
