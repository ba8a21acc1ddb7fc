"""`Turns`: one device, several schedulers, and one of them at a time, in the order in which they asked; `Slices`: encoders cut
into their layers, so that a long source holds running rows up for one slice of encoder work and no longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from deed.families.encoders.layer import parts_of
from deed.utils.pausing import may_pause, pausing


class Turns:
    """Who computes. First come, first served."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = self._serving = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Compute within."""
        self._take()
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
