"""What a scheduler counts and times, and the snapshot of it that `Scheduler.stats()` gives."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

STEP_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds
WAIT_BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
WINDOW_S = 30.0  # rates are of so many seconds


@dataclass
class Histogram:
    """Counts by upper bound, as Prometheus has them (not cumulated).

    Attributes:
        bounds: upper bounds in seconds; what is above the last is counted beyond them.
        counts: one more than there are bounds.
        total: sum of what was added.
        largest: the largest of it.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    largest: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value
        self.largest = max(self.largest, value)

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def copy(self) -> Histogram:
        """One that does not change any more."""
        return Histogram(self.bounds, list(self.counts), self.total, self.largest)


@dataclass
class Stats:
    """A snapshot.

    Attributes:
        queue_length: requests that wait for their encoder or for room; `running_rows` those that decode.
        submitted, finished, failed, cancelled, expired, refused: requests, counted since the start. Refused ones met a full
            queue.
        tokens: given since the start; `tokens_per_s` of the last half minute, `requests_per_s` likewise.
        step_s: seconds of a decoding step.
        gap_s: seconds between two steps of a running row, its `largest` the longest wait that a row has had.
        first_token_s: seconds from submission to the first token.
        encode_s: seconds of an encoder call, decoding steps between its layers included.
        encoder_slice_s: seconds of encoder work between two steps, see `Scheduler`.
        depths: tokens by the layer that gave them.
        cache_bytes: bytes that running rows hold; `cache_bytes_reserved` what admitted rows may come to, `cache_bytes_budget`
            how much they may be.
        batch_rows: rows times steps, so that `batch_rows / step_s.count` is the mean batch.
        uptime_s: seconds since the start.
    """

    queue_length: int = 0
    running_rows: int = 0
    submitted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0
    requests_per_s: float = 0.0
    step_s: Histogram = field(default_factory=lambda: Histogram(STEP_BOUNDS))
    gap_s: Histogram = field(default_factory=lambda: Histogram(STEP_BOUNDS))
    first_token_s: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS))
    encode_s: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS))
    depths: dict[int, int] = field(default_factory=dict)
    cache_bytes: int = 0
    cache_bytes_reserved: int = 0
    cache_bytes_budget: int = 0
    batch_rows: int = 0
    encoder_slice_s: float = 0.0
    uptime_s: float = 0.0


class Rate:
    """Events per second over the last half minute."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float) -> None:
        """Count events at `time.monotonic()` now."""
        self._seen.append((now, count))
        while self._seen[0][0] < now - WINDOW_S:
            self._seen.popleft()

    def per_second(self, now: float) -> float:
        """Events per second, 0 where there were none."""
        seen = [n for at, n in list(self._seen) if at >= now - WINDOW_S]
        return sum(seen) / max(min(WINDOW_S, now - self._began), 1e-3)


class Metrics:
    """The live numbers. Attributes as of `Stats`; written by the scheduler's threads under `lock`.

    Attributes:
        now: the numbers.
        lock: held while they are changed or copied.
    """

    def __init__(self) -> None:
        self.now = Stats()
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.token_rate, self.request_rate = Rate(), Rate()

    def count(self, **numbers: int) -> None:
        """Add to counters, by their names."""
        with self.lock:
            for name, number in numbers.items():
                setattr(self.now, name, getattr(self.now, name) + number)

    def snapshot(self, **live: Any) -> Stats:
        """A copy, with what is only known now."""
        with self.lock:
            now, at = self.now, time.monotonic()
            copies = {
                name: getattr(now, name).copy() for name in ("step_s", "gap_s", "first_token_s", "encode_s", "depths")
            }
            return Stats(
                **{
                    **vars(now),
                    **copies,
                    "tokens_per_s": self.token_rate.per_second(at),
                    "requests_per_s": self.request_rate.per_second(at),
                    "uptime_s": at - self.began,
                    **live,
                }
            )

    def stepped(
        self, seconds: float, now: float, rows: int, depths: list[int], gaps: list[float], firsts: list[float]
    ) -> None:
        """Count a decoding step.

        Args:
            seconds: that it took.
            now: `time.monotonic()`.
            rows: how many took part.
            depths: of the tokens that it gave.
            gaps: of each row that had been in a step before, the seconds since that.
            firsts: of each row whose first token it gave, the seconds since its submission.
        """
        with self.lock:
            counts = self.now
            counts.step_s.add(seconds)
            counts.batch_rows += rows
            counts.tokens += len(depths)
            self.token_rate.add(len(depths), now)
            for depth in depths:
                counts.depths[depth] = counts.depths.get(depth, 0) + 1
            for gap in gaps:
                counts.gap_s.add(gap)
            for first in firsts:
                counts.first_token_s.add(first)
