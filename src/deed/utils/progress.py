"""How long work says how far it has come: one protocol, silent unless the caller passes something that shows it.

Whoever works takes `progress: Progress = SILENT` and opens a bar per piece of work:

    with progress.bar("reading pages", total=len(pages)) as bar:
        for page in pages:
            ...
            bar.advance()
    progress.note("threshold 0.9: score 0.97")

A function with one piece of work and a caller that has the bar takes `bar: Bar = SILENT_BAR` instead, or a function:
`bar.advance` (so many more are done), `bar.update` (a `Tell`) or `progress.note` (a line). The command line passes an open
`RichProgress`; functions that a user calls and that take long take None for `shown()`'s choice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Tell = Callable[[str, float], None]  # what is being done, and the share of the whole that is done


class Bar(Protocol):
    """One piece of work."""

    def advance(self, count: float = 1) -> None:
        """So many more are done."""

    def update(
        self, description: str | None = None, completed: float | None = None, total: float | None = None
    ) -> None:
        """Change what is being done, how much is done, or how much there is; None leaves it as it is.

        Args:
            description: what is being done.
            completed: how much is done.
            total: how much there is.
        """


class Progress(Protocol):
    """Who is told how far work has come."""

    def bar(self, description: str, total: float | None = None) -> AbstractContextManager[Bar]:
        """A bar for a piece of work, complete when the block ends; `total=None`: how much there is, is not known."""

    def note(self, line: str) -> None:
        """A line that stays: a finding on the way."""


class SilentBar:
    """Shows nothing."""

    def advance(self, count: float = 1) -> None:
        """Nothing."""

    def update(
        self, description: str | None = None, completed: float | None = None, total: float | None = None
    ) -> None:
        """Nothing.

        Args:
            description, completed, total: as for `Bar`.
        """


class SilentProgress:
    """Shows nothing."""

    def bar(self, description: str, total: float | None = None) -> AbstractContextManager[Bar]:
        """A bar that shows nothing."""
        return nullcontext(SILENT_BAR)

    def note(self, line: str) -> None:
        """Nothing."""


SILENT_BAR = SilentBar()
SILENT = SilentProgress()


class RichProgress:
    """Bars with the time left, and notes above them, on stderr; a context manager that draws while it is open.

    Args:
        quiet: show nothing after all.
        transient: leave nothing on the screen when it is closed.
    """

    def __init__(self, quiet: bool = False, transient: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:3.0f} %"))
        self._bars = Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=quiet, transient=transient
        )
        self._quiet = quiet

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if error is not None:
            self._bars.live.transient = True  # nothing but the error is left to read
        self._bars.stop()

    @contextmanager
    def bar(self, description: str, total: float | None = None) -> Iterator[Bar]:
        """A bar for a piece of work."""
        bar = RichBar(self._bars, self._bars.add_task(description, total=total))
        yield bar
        bar.finish()

    def note(self, line: str) -> None:
        """A line above the bars."""
        if not self._quiet:
            self._bars.console.print(line, markup=False, highlight=False)


class RichBar:
    """A bar of a `rich.progress.Progress`.

    Args:
        bars: the `Progress`.
        task: what its `add_task` gave.
    """

    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, count: float = 1) -> None:
        """So many more are done."""
        self._bars.advance(self._task, count)

    def update(
        self, description: str | None = None, completed: float | None = None, total: float | None = None
    ) -> None:
        """As `Bar.update`.

        Args:
            description, completed, total: as there.
        """
        self._bars.update(self._task, description=description, completed=completed, total=total)

    def finish(self) -> None:
        """All is done, however much it was."""
        task = next(task for task in self._bars.tasks if task.id == self._task)
        total = task.completed if task.total is None else task.total
        self.update(total=total, completed=total)


@contextmanager
def shown(progress: Progress | None = None) -> Iterator[Progress]:
    """The progress given; where none is, bars on a terminal and nothing elsewhere. For functions that a user calls."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        with RichProgress() as bars:
            yield bars
    else:
        yield SILENT


def track(items: Iterable[Item], bar: Bar) -> Iterator[Item]:
    """The items, the bar advanced by one after each."""
    for item in items:
        yield item
        bar.advance()
