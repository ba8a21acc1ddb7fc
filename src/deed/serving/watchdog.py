"""The process that starts the serving one and watches it: a dead or hung worker is started again, and its socket stays open.

Time is counted in looks at the worker, not by the clock, so that a machine that was suspended, or both processes stopped, is
not taken for a hung worker. Needs no PyTorch.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from .settings import ServeSettings

START_S = 600.0  # that a worker has to load its libraries and models before its first sign of life
GRACE_S = 15.0  # beyond the time to finish requests, until a worker that was told to end is killed
MOST_FAILURES = 5  # in a row, without having been ready in between
BAD_MODEL = 2  # exit code of a worker that would fail again
READY = b"r"


class Watchdog:
    """Runs a server until it is told to end.

    Args:
        settings: of the server.
        tell: is called with lines for people.
    """

    def __init__(self, settings: ServeSettings, tell: Any = None) -> None:
        self.settings = settings
        self.tell = tell or (lambda line: print(f"deed serve: {line}", file=sys.stderr, flush=True))
        self.listening = bound(settings.host, settings.port)
        self.ending = False
        self.failures = 0
        self.worker: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the server answers."""
        host, port = self.listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until starting is hopeless; the exit code."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._told_to_end)
        self.tell(f"listening on {self.url}")
        while True:
            code, was_ready = self._one_worker()
            if self.ending:
                return 0 if code in (0, -signal.SIGTERM) else 1
            self.failures = 1 if was_ready else self.failures + 1
            if not was_ready and (code == BAD_MODEL or self.failures == 1):
                self.tell("the server could not be started")
                return 2 if code == BAD_MODEL else 1
            if self.failures > MOST_FAILURES:
                self.tell(f"the worker ended {self.failures} times before it was ready; given up")
                return 1
            self.tell(f"the worker ended ({code}); it is started again")
            time.sleep(min(10.0, 0.2 * 2**self.failures))

    def _told_to_end(self, number: int, frame: Any) -> None:
        if self.ending and self.worker is not None:  # told twice
            self.worker.kill()
        self.ending = True
        if self.worker is not None and self.worker.poll() is None:
            self.worker.terminate()

    def _one_worker(self) -> tuple[int, bool]:
        """Start a worker and watch it until it ends; its exit code, and whether it was ever ready."""
        beats, theirs = os.pipe()
        try:
            self.worker = worker = subprocess.Popen(
                [sys.executable, "-m", "deed.serving.worker", str(self.listening.fileno()), str(theirs)],
                stdin=subprocess.PIPE,
                pass_fds=(self.listening.fileno(), theirs),
                start_new_session=True,  # Ctrl-C is for this process, which hands it on
            )
        finally:
            os.close(theirs)
        try:
            if self.ending:
                worker.terminate()
            assert worker.stdin is not None
            try:
                worker.stdin.write(json.dumps(self.settings.to_dict()).encode())
                worker.stdin.close()
            except BrokenPipeError:
                pass
            ready = self._watch(worker, beats)
            return worker.wait(), ready
        finally:
            os.close(beats)
            if worker.poll() is None:
                worker.kill()
                worker.wait()

    def _watch(self, worker: subprocess.Popen[bytes], beats: int) -> bool:
        """Returns when the worker has ended, or was killed because it hung; whether it was ready before."""
        look = min(1.0, self.settings.hang_s / 20)
        silence = ended_for = 0.0
        started = ready = False
        while True:
            found, _, _ = select.select([beats], [], [], look)
            if found:
                told = os.read(beats, 4096)
                if not told:  # the worker closed its end: it is gone
                    return ready
                silence, started = 0.0, True
                if not ready and told.endswith(READY):
                    ready = True
                    self.tell(f"ready (worker {worker.pid})")
            else:
                silence += look
            if self.ending:
                ended_for += 0.0 if found else look
                if ended_for > self.settings.drain_s + GRACE_S:
                    worker.kill()
                    return ready
            if silence > (self.settings.hang_s if started else max(START_S, self.settings.hang_s)):
                self.tell(f"the worker gave no sign of life for {silence:.0f} s and is killed")
                worker.kill()
                return ready


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: name or address.
        port: 0 picks a free one.

    Raises:
        OSError: the address is taken, or not this machine's; says which.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(found[0], found[1])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(found[4])
        made.listen(1024)
        made.set_inheritable(True)
    except OSError as error:
        raise OSError(f"--host {host} --port {port} cannot be listened on: {error.strerror or error}") from None
    return made
