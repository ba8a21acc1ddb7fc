"""A server under test in a process of its own: start, wait until it is ready, watch its memory, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from .serve_work import Work
from .shapes import NotAvailable

SUBJECTS = (
    *("deed fp32", "deed int8", "deed fp32 full", "deed int8 full"),
    *("transformers fp32", "litserve fp32", "ctranslate2 fp32", "ctranslate2 int8"),
)
READY_LIMIT = 300.0  # seconds
MB = 2**20


@dataclass(frozen=True)
class Setup:
    """How servers are started, the same for all where it applies.

    Args:
        threads: of the model.
        inter: CTranslate2's batches at once, which share the threads.
        most: requests of a batch, of the peers.
        wait_ms: how long a peer's batch waits for more.
        serve_options: further options of `deed serve`.
    """

    threads: int = 2
    inter: int = 1
    most: int = 32
    wait_ms: int = 5
    serve_options: tuple[str, ...] = ()


def command(subject: str, work: Work, setup: Setup, port: int) -> list[str]:
    """The command line of a subject's server.

    Args:
        subject: of `SUBJECTS`.
        work: what it serves.
        setup: how.
        port: on the loopback device.
    """
    if subject.startswith("deed"):
        line = [sys.executable, "-m", "deed", "serve", str(work.model), "--host", "127.0.0.1", "--port", str(port)]
        line += ["--threads", str(setup.threads), *(["--int8"] if "int8" in subject else [])]
        return [*line, *setup.serve_options]
    rest = (port, setup.threads, setup.inter, setup.most, setup.wait_ms)
    module = [sys.executable, "-m", "deed.bench.serve_peers"]
    return [*module, subject, str(work.model), str(work.folder), *map(str, rest)]


def environment(subject: str, setup: Setup) -> dict[str, str]:
    """Environment of a subject's server, and of its reference: deed's kernels without a clock, else two processes may choose
    differently and so round differently; `DEED_KERNELS` of the caller goes before.

    Args:
        subject: of `SUBJECTS`.
        setup: how servers are started.
    """
    own = {"DEED_KERNELS": "fixed"} if subject.startswith("deed") else {}
    return {**own, **os.environ, "OMP_NUM_THREADS": str(setup.threads)}


@dataclass
class Server:
    """A running server.

    Attributes:
        url: without a path.
        process: it, whose children count as well.
        memory: `(seconds, bytes)` so far, resident, of it and its children.
    """

    url: str
    process: subprocess.Popen[bytes]
    memory: list[tuple[float, int]] = field(default_factory=list)

    def family(self) -> list[psutil.Process]:
        """The process and its children."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.Error:
            return []

    def resident(self) -> int:
        """Bytes now."""
        total = 0
        for one in self.family():
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        return total

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        total = 0.0
        for one in self.family():
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def watch(self, every: float, stop: threading.Event) -> None:
        """Takes the memory down until it is stopped."""
        while not stop.wait(every):
            self.memory.append((time.perf_counter(), self.resident()))


@asynccontextmanager
async def running(subject: str, work: Work, setup: Setup, log: Path, every: float = 0.5) -> AsyncIterator[Server]:
    """A subject's server, ready to be asked; ended with the block.

    Args:
        subject, work, setup: as for `command`.
        log: takes what it prints.
        every: seconds between two looks at its memory.

    Raises:
        NotAvailable: it ended, or did not become ready in time.
    """
    port = free_port()
    line = command(subject, work, setup, port)
    with open(log, "wb") as out:
        process = subprocess.Popen(
            line,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(subject, setup),
        )
    server, stop = Server(f"http://127.0.0.1:{port}", process), threading.Event()
    watching = threading.Thread(target=server.watch, args=(every, stop), daemon=True)
    try:
        await until_ready(server, log)
        watching.start()
        yield server
    finally:
        stop.set()
        end(process)


async def until_ready(server: Server, log: Path) -> None:
    """Raises:
    NotAvailable: it ended, or did not become ready in time; with the last lines it printed.
    """
    limit = time.monotonic() + READY_LIMIT
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < limit and server.process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                async with session.get(server.url + "/readyz", timeout=aiohttp.ClientTimeout(total=5)) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
    said = log.read_text(errors="replace").strip().splitlines()[-3:]
    what = "ended" if server.process.poll() is not None else f"was not ready after {READY_LIMIT:g} s"
    raise NotAvailable(f"its server {what}: {' '.join(' '.join(said).split())[-300:]}")


def end(process: subprocess.Popen[Any], limit: float = 10.0) -> None:
    """SIGTERM to its whole group, then SIGKILL to what is left."""
    for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, limit)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def slope(series: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares of values over times: the slope and its standard error.

    Args:
        series: `(time, value)`, three at least.
    """
    n = len(series)
    mean_t, mean_v = (sum(p[i] for p in series) / n for i in (0, 1))
    square = sum((t - mean_t) ** 2 for t, _ in series)
    found = sum((t - mean_t) * (v - mean_v) for t, v in series) / square
    left = sum((v - mean_v - found * (t - mean_t)) ** 2 for t, v in series)
    return found, (left / max(1, n - 2) / square) ** 0.5
