"""Drift in a running server: sampled requests go to the scheduler once more, at full depth and last in its queue."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from deed.constants import NEVER_EXIT
from deed.errors import CalibrationError, QueueFull, SchedulerClosed

from .drift import DriftMonitor
from .request import GenerationRequest
from .ticket import Failed, Finished, Ticket

log = logging.getLogger(__name__)
LAST = 1_000_000  # priority: after everything that somebody waits for
WAITING = 16  # sampled requests that may wait; more are dropped
# Options with which a second answer may differ for other reasons than depth, or that carry a state of the first.
NOT_AGAIN = ("exit_policy", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer")


class DriftWatch:
    """Has sampled requests of a scheduler decoded again, one at a time, and tells the monitor.

    Args:
        scheduler: of the model.
        monitor: of the model; where its threshold rises, that of the model's configuration does.
        told: called with each alarm.

    Attributes:
        dropped: sampled requests that were not compared, because too many waited or one of the two failed.
    """

    def __init__(self, scheduler: Any, monitor: DriftMonitor, told: Callable[[Any], None] | None = None) -> None:
        self.scheduler, self.monitor, self.told = scheduler, monitor, told
        self.dropped = 0
        self._waiting: queue.Queue[tuple[Ticket, Any] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="deed-drift", daemon=True)
        self._thread.start()

    def watch(self, ticket: Ticket) -> bool:
        """Look at a request that was just submitted; whether it will be decoded again. Never blocks."""
        request: GenerationRequest = ticket.request
        if not can_repeat(request) or not self.monitor.wants(request.options.get("exit_threshold")):
            return False
        try:
            self._waiting.put_nowait((ticket, self.monitor.threshold))
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """End after the comparison that is under way."""
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            try:
                self._compare(*waiting)
            except (QueueFull, SchedulerClosed):
                self.dropped += 1
            except Exception:
                self.dropped += 1
                log.exception("a request could not be decoded again at full depth")

    def _compare(self, ticket: Ticket, threshold: Any) -> None:
        request: GenerationRequest = ticket.request
        early = end_of(ticket)
        if isinstance(early, Failed):  # given up by its client, or wrong
            self.dropped += 1
            return
        options = {k: v for k, v in request.options.items() if k != "answer_confidence"}
        again = GenerationRequest(
            request.inputs, {**options, "exit_threshold": NEVER_EXIT}, priority=LAST, confidence=False
        )
        full = self.scheduler.submit(again).result()
        alarm = self.monitor.add(early.tokens, full.tokens, threshold)
        if alarm is not None and alarm.raised_to is not None:
            self.scheduler.model.deed_config.threshold = alarm.raised_to
        if alarm is not None and self.told is not None:
            self.told(alarm)


def start_watch(served: Any, every: int, rise: bool) -> DriftWatch | None:
    """Watch a served model for drift; None, and a line in the log, where its calibration says no limit.

    Args:
        served: a `ServedModel`.
        every: one request of so many is compared.
        rise: after an alarm the threshold rises.
    """
    try:
        monitor = DriftMonitor.of(served.model, rise=rise, every=every, name=served.name)
    except CalibrationError as error:
        log.warning("%s is not watched for drift: %s", served.name, error)
        return None
    return DriftWatch(served.scheduler, monitor)


def can_repeat(request: GenerationRequest) -> bool:
    """Whether a second answer to a request differs from the first by its depth only: greedy, and by the model's threshold."""
    options: Mapping[str, Any] = request.options
    return not (
        request.exact
        or options.get("do_sample")
        or options.get("num_beams", 1) != 1
        or any(options.get(name) is not None for name in NOT_AGAIN)
    )


def end_of(ticket: Ticket) -> Finished | Failed:
    """A ticket's end, waited for."""
    for event in ticket:
        if isinstance(event, Finished | Failed):
            return event
    raise AssertionError("a ticket's events end with its end")
