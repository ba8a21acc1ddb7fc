"""Files that requests bring, read by processes of their own (`reading_process.py`) with limits of memory and time."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from deed.errors import DataError
from deed.ocr import TextLayer, Word
from deed.utils.optional import need

from .api_errors import ApiError
from .reading_process import NO_MEMORY, TOO_LARGE
from .security import KEY_VARIABLE
from .settings import Limits
from .uploads import DOCUMENT, kind_of

log = logging.getLogger(__name__)
MOST_LINE = 64 << 20  # bytes of an answer's line: the text of a page
PATIENCE = 10  # times its processor time that a file may take by the clock, on a busy machine
FILES = 200  # that a process reads before a new one takes its place
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads reserve memory


class Died(Exception):
    """The process has ended, or was killed because it took too long."""


class Child:
    """A process that reads files."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deed.serving.reading_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, **ALONE},
            start_new_session=True,  # Ctrl-C is for the server
        )
        self.files = 0
        self._unread = bytearray()

    def ask(self, until: float, data: bytes = b"", **order: Any) -> tuple[dict[str, Any], bytes]:
        """Have it do something; its answer, and the bytes with it.

        Args:
            until: `time.monotonic()` after which it is killed.
            data: that belongs to it.
            order: what, as `Reader` of `reading_process` knows it.

        Raises:
            Died: it does not answer.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({**order, "bytes": len(data)}).encode() + b"\n")
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError:
            raise Died from None
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > MOST_LINE:
                raise Died
            self._read(until)
        answer = json.loads(self._unread[:end])
        del self._unread[: end + 1]
        while len(self._unread) < answer["bytes"]:
            self._read(until)
        content = bytes(self._unread[: answer["bytes"]])
        self._unread.clear()
        return answer, content

    def _read(self, until: float) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
            raise Died
        found = os.read(fd, 1 << 20)
        if not found:
            raise Died
        self._unread += found

    def end(self) -> int:
        """Kill it; the code that it ended with."""
        if self.process.poll() is None and not self._has_ended():
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        return self.process.wait()

    def _has_ended(self) -> bool:
        """Whether it is about to: a dead process's pipe closes before it can be waited for."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)
        return self.process.poll() is not None


class Children:
    """Processes that are idle, to be used again. As many run as are asked for at once: the server's readers say how many."""

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    @contextmanager
    def one(self, limits: Limits) -> Iterator[Any]:
        """A function that has a process do something, for one file; see `Child.ask`.

        Raises:
            DataError: what the process says is wrong with the file; or the process has died of it.
            ApiError: the file is above a limit.
        """
        with self._lock:
            child = self._idle.pop() if self._idle else None
        child = child or Child()
        child.files += 1
        until = time.monotonic() + PATIENCE * limits.reading_s
        whole = False

        def ask(data: bytes = b"", **order: Any) -> tuple[dict[str, Any], bytes]:
            nonlocal whole
            whole = False
            answer, content = child.ask(until, data, **order)
            whole = answer.get("kind") != NO_MEMORY
            if "error" in answer:
                raise _error(answer, limits)
            return answer, content

        try:
            ask(do="limit", memory=limits.reading_bytes, seconds=limits.reading_s)
            yield ask
        except Died:
            code = child.end()
            log.warning("the process that reads files has ended (%s)", code)
            if code == -signal.SIGXCPU or (code == -signal.SIGKILL and time.monotonic() > until):
                told = f"reading the file took longer than the limit of {limits.reading_s:g} seconds"
                raise ApiError(413, told) from None
            told = "the file cannot be read: it is damaged, or takes too much memory, and ended the process that reads files"
            raise DataError(told) from None
        finally:
            if whole and child.files < FILES:
                with self._lock:
                    self._idle.append(child)
            elif child.process.returncode is None:
                child.end()

    def close(self) -> None:
        """End all that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.process.kill()
            child.end()


CHILDREN = Children()


def _error(answer: dict[str, Any], limits: Limits) -> Exception:
    """What a process says of a file, as the client gets it."""
    if answer["kind"] == NO_MEMORY:
        return ApiError(413, f"reading the file takes more memory than the limit of {limits.reading_bytes:,} bytes")
    told = str(answer["error"])
    return ApiError(413, told) if answer["kind"] == TOO_LARGE else DataError(told)


class RemoteDocument:
    """As `deed.ocr.Document`, of a file that another process reads.

    Args:
        ask: of `Children.one`.
        count: pages.

    Attributes:
        path: how errors call it.
    """

    path = "the file"

    def __init__(self, ask: Any, count: int) -> None:
        self.ask, self.count = ask, count

    def check(self, page: int) -> None:
        """Whether there is such a page, with pictures that are not too large.

        Raises:
            DataError: there is no such page.
            ApiError: too many pixels.
        """
        self.ask(do="check", page=page)

    def image(self, page: int = 1, dpi: float = 200) -> Any:
        """A page as an RGB image.

        Args:
            page: counted from 1.
            dpi: of a PDF's page.

        Raises:
            DataError: a damaged page.
        """
        answer, pixels = self.ask(do="image", page=page, dpi=dpi)
        return need("PIL.Image").frombytes("RGB", tuple(answer["size"]), pixels)

    def text(self, page: int = 1) -> TextLayer | None:
        """A page's own text; None of a file that is no PDF.

        Args:
            page: counted from 1.

        Raises:
            DataError: a damaged page.
        """
        layer = self.ask(do="text", page=page)[0]["layer"]
        return layer and TextLayer(**{**layer, "words": [Word(text, tuple(box)) for text, box in layer["words"]]})


@contextmanager
def opened_document(data: bytes, limits: Limits) -> Iterator[RemoteDocument]:
    """A PDF, TIFF or picture, read by a process of its own.

    Args:
        data: of the file.
        limits: pages, pixels, memory and time, and what a `.pdf.gz` may hold.

    Raises:
        DataError: a damaged or encrypted file.
        ApiError: too large.
    """
    if not data:
        raise DataError("the file is empty")
    with CHILDREN.one(limits) as ask:
        answer, _ = ask(data, do="open", limits=asdict(limits), paged=kind_of(data) == DOCUMENT)
        yield RemoteDocument(ask, int(answer["count"]))
        ask(do="close")


def read_sound(data: bytes, rate: int, limits: Limits) -> np.ndarray:
    """Sound as `[samples]` float32, mono, read by a process of its own.

    Args:
        data: of the file.
        rate: samples a second.
        limits: its seconds, and memory and time for reading it.

    Raises:
        DataError: no sound, or a damaged file.
        ApiError: too long; decoding stops there.
    """
    with CHILDREN.one(limits) as ask:
        _, samples = ask(data, do="sound", rate=rate, most=limits.audio_seconds)
    return np.frombuffer(samples, np.float32).copy()
