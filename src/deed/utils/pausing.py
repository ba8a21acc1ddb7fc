"""Places where long work may be interrupted: whoever runs it in this thread says what happens there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PAUSE: ContextVar[Callable[[], None] | None] = ContextVar("deed_pause", default=None)


def may_pause() -> None:
    """Called between two layers of an encoder."""
    act = _PAUSE.get()
    if act is not None:
        act()


@contextmanager
def pausing(act: Callable[[], None]) -> Iterator[None]:
    """Have `act` called at every such place that this thread passes until the block ends."""
    token = _PAUSE.set(act)
    try:
        yield
    finally:
        _PAUSE.reset(token)
