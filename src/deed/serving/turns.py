"""`Turns`: one device, several schedulers, and one of them at a time, in the order in which they asked; `Slices`: encoders cut
into their layers, so that a long source holds running rows up for one slice of encoder work and no longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from deed.families.encoders.layer import parts_of
from deed.utils.pausing import may_pause, pausing


class Turns:
    """Who computes. First come, first served.

    Threads of OpenMP belong to the thread that asked for them, and once several threads of a process have some, more than
    there are processors, they sleep between any two products instead of waiting for the next, which halves the speed. So
    those who compute within turns take as many as they are to have, and others one (`in_one_thread`).

    Args:
        threads: of PyTorch's, for whoever has the turn; None: as many as the calling thread has.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or torch.get_num_threads()
        self._changed = threading.Condition()
        self._next = self._serving = 0

    @contextmanager
    def turn(self, threads: int | None = None) -> Iterator[None]:
        """Compute within.

        Args:
            threads: fewer of them are enough.
        """
        self._take()
        torch.set_num_threads(min(self.threads, threads or self.threads))  # others may have changed what MKL shares
        try:
            yield
        finally:
            self._give()

    def step_aside(self) -> None:
        """Within a turn: let those that wait go first, if there are any."""
        if self.waiting:
            self._give()
            self._take()

    @property
    def waiting(self) -> bool:
        """Whether another waits while one has the turn."""
        return self._next - self._serving > 1

    def _take(self) -> None:
        with self._changed:
            mine, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: self._serving == mine)

    def _give(self) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


def in_one_thread(work: Callable[..., Any], *args: Any) -> Any:
    """`work(*args)` in a thread that does not compute within turns (it reads pictures, say): without threads of OpenMP beside
    its own.

    Args:
        work: what is done.
        args: of it.
    """
    torch.set_num_threads(1)
    return work(*args)


class Slices:
    """Lets an encoder say when one of its layers begins, so that others may compute between two of them.

    Args:
        encoder: the module.
    """

    def __init__(self, encoder: nn.Module) -> None:
        layers = [layer for m in encoder.modules() if isinstance(m, nn.ModuleList) for layer in m]
        # Layers that run lean say themselves when one begins, and would not run so with a hook.
        lean = [layer for layer in layers if parts_of(layer) is not None]
        within = {id(module) for layer in lean for module in layer.modules()}  # a T5 layer is a list itself
        others = [layer for layer in layers if id(layer) not in within]
        self._handles = [layer.register_forward_pre_hook(lambda *_: may_pause()) for layer in others]

    def run(self, work: Callable[[], None], between: Callable[[], None]) -> None:
        """Do encoder work.

        Args:
            work: the work.
            between: called in this thread before every layer.
        """
        with pausing(between):
            work()

    def remove(self) -> None:
        """Leave the encoder as it was."""
        for handle in self._handles:
            handle.remove()
