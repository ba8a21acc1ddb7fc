"""The process that serves: `python -m deed.serving.worker SOCKET BEATS`, started by the watchdog, settings on standard input.

It tells the watchdog that it is alive by a byte in a pipe, as long as the event loop turns and no scheduler with work stands
still. Told to end (SIGTERM), it takes no more requests, finishes those that run, and exits with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from .app import create_app
from .settings import ServeSettings, choose_kernels_alike
from .state import ServerState

BEAT_S = 1.0  # at most, between two signs of life
LOADING, READY = b"l", b"r"
BAD_MODEL = 2  # exit code: starting again would not help
MOST_CONNECTIONS = 1024


class HttpServer(uvicorn.Server):
    """Uvicorn, its signals being ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured here."""
        yield


class Progress:
    """Whether schedulers that have work get on with it.

    Args:
        state: of the server.
        patience: looks without a change after which one counts as hung.
    """

    def __init__(self, state: ServerState, patience: int) -> None:
        self.state, self.patience = state, patience
        self._seen: dict[str, tuple[Any, int]] = {}

    def stands_still(self) -> bool:
        """Look once; whether a scheduler with work has not changed for as many looks as the patience has."""
        loaded = self.state.models.all()
        self._seen = {one.name: self._seen[one.name] for one in loaded if one.name in self._seen}
        for served in loaded:
            if not served.scheduler.busy:
                self._seen.pop(served.name, None)
                continue
            now = served.scheduler.stats()
            mark = (now.tokens, now.step_s.count, now.encode_s.count, now.finished, now.failed, now.cancelled)
            before, looks = self._seen.get(served.name, (None, 0))
            self._seen[served.name] = (mark, looks + 1 if mark == before else 0)
        return any(looks >= self.patience for _, looks in self._seen.values())


class Worker:
    """One run of the server.

    Args:
        settings: of the server.
        listening: the socket, bound by the watchdog.
        beats: file descriptor of the pipe.
    """

    def __init__(self, settings: ServeSettings, listening: socket.socket, beats: int) -> None:
        self.settings, self.listening, self.beats = settings, listening, beats
        app = create_app(settings)
        self.state: ServerState = app.state.server
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
        self.http = HttpServer(config)
        self.code = 0
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serve until told to end; the exit code."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.end)
        beating = asyncio.create_task(self._beat())
        threading.Thread(target=self._load, args=(loop,), name="deed-load", daemon=True).start()
        await self.http.serve(sockets=[self.listening])
        beating.cancel()
        return self.code

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self.state.models.load()
        except Exception as error:
            if isinstance(error, ValueError | TypeError | OSError):
                print(f"deed: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            else:
                logging.getLogger(__name__).exception("the models cannot be loaded")
            self.code = BAD_MODEL
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.http.should_exit = True

    def end(self) -> None:
        """Take no more requests, and end when those that run are answered."""
        if self._ending is None:
            self.state.draining = True
            self._ending = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        for _ in range(max(1, round(self.settings.drain_s / 0.1))):
            if not self.state.running and not self.state.models.busy:
                break
            await asyncio.sleep(0.1)
        self._stop()

    async def _beat(self) -> None:
        pause = min(BEAT_S, self.settings.hang_s / 10)
        progress = Progress(self.state, max(2, round(self.settings.hang_s / pause)))
        while True:
            if not progress.stands_still():
                try:
                    os.write(self.beats, READY if self.state.models.ready else LOADING)
                except BlockingIOError:  # the watchdog is stopped; what is in the pipe will do
                    pass
                except OSError:  # it is gone
                    self.end()
                    return
            await asyncio.sleep(pause)


def main() -> None:
    """Entry point of the worker process."""
    choose_kernels_alike()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    settings = ServeSettings.from_dict(json.loads(sys.stdin.read()))
    listening, beats = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    os.set_blocking(beats, False)
    code = asyncio.run(Worker(settings, listening, beats).run())
    sys.stderr.flush()
    os._exit(code)  # threads that still read files are not waited for


if __name__ == "__main__":
    main()
