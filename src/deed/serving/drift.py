"""Drift: does early exit still cost no more than calibration found, on the requests that come in now?

One request of every so many, drawn at random, is decoded once more at full depth, when there is nothing better to do. How
often the answers differ is compared with a limit by a confidence sequence, which may be looked at after every sample:
the probability of ever raising an alarm while the limit is kept is at most 1 - `confidence`, however long the server runs.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deed.constants import NEVER_EXIT
from deed.errors import CalibrationError

from .confidence_sequence import ConfidenceSequence

LOG = logging.getLogger("deed.serving.drift")
Unit = Literal["answer", "token"]


@dataclass(frozen=True)
class Alarm:
    """Answers differ from those of full depth more often than the limit.

    Attributes:
        threshold: at which the answers were given.
        samples: how many were compared.
        mean: share that differed.
        lower: lower bound of that share, at the confidence asked for.
        limit: what it was to stay below.
        raised_to: the threshold from now on; None: as it was.
    """

    threshold: float | list[float]
    samples: int
    mean: float
    lower: float
    limit: float
    raised_to: float | None


class DriftMonitor:
    """Which requests to decode again, and what came of it. Safe to be called from several threads.

    The server asks `wants` for every finished request; where it says yes, it decodes the request once more with
    `exit_threshold=NEVER_EXIT` at its lowest priority, and hands both answers to `add`. While the server has no time for it,
    samples may be dropped: that loses time, not validity, as long as it does not depend on the answers.

    Args:
        limit: share of answers (or of their tokens) that may differ, in (0, 1); see `limit_of`.
        confidence: 1 - the probability of a false alarm, over the whole life of the monitor.
        every: one request of so many is compared.
        unit: `"answer"`: an answer that differs anywhere is a loss of 1. `"token"`: the share of its tokens that differ.
        threshold: at which requests are answered.
        stricter: thresholds to go to after alarms, rising; see `stricter_thresholds`. (): an alarm changes nothing.
            Going from strict to strict costs no confidence: where the limit is kept at a threshold, it is kept at all
            stricter ones, and the first false alarm would have to be raised at the first such threshold.
        seed: of the draw.
        name: of the model, for the log.

    Attributes:
        alarms: all so far.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        limit: float,
        *,
        confidence: float = 0.95,
        every: int = 100,
        unit: Unit = "answer",
        threshold: float | list[float] = NEVER_EXIT,
        stricter: Sequence[float] = (),
        seed: int = 0,
        name: str = "",
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be an integer of at least 1, got {every!r}")
        if unit not in ("answer", "token"):
            raise ValueError(f'unit must be "answer" or "token", got {unit!r}')
        self.every, self.unit, self.name = every, unit, name
        self.threshold: float | list[float] = threshold
        self.alarms: list[Alarm] = []
        self._sequence = ConfidenceSequence(limit, confidence)
        self._stricter = sorted(stricter)
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self._seen, self._chosen = 0, 0

    @classmethod
    def of(cls, model: Any, *, limit: float | None = None, rise: bool = False, **options: Any) -> DriftMonitor:
        """The monitor of a calibrated model.

        Args:
            model: with early exit.
            limit: None: what its calibration says (`limit_of`).
            rise: after an alarm the threshold rises to the next calibrated one.
            options: of `DriftMonitor`.

        Raises:
            CalibrationError: the model's calibration says no limit, and none is given.
        """
        config = model.deed_config
        options.setdefault("threshold", config.threshold)
        options.setdefault("stricter", stricter_thresholds(config) if rise else ())
        return cls(limit_of(config) if limit is None else limit, **options)

    @property
    def limit(self) -> float:
        """The share that may differ."""
        return self._sequence.limit

    def wants(self, threshold: Any = None) -> bool:
        """Whether a finished request is to be decoded again: one, drawn at random, of every so many.

        Args:
            threshold: at which it was answered; None: the monitor's. Requests at other thresholds are not counted, as are
                those that the calibration does not speak of (sampling, other beams): do not ask for them.
        """
        with self._lock:
            if threshold is not None and threshold != self.threshold:
                return False
            if _nothing_exits(self.threshold):
                return False
            place = self._seen % self.every
            if place == 0:
                self._chosen = self._rng.randrange(self.every)
            self._seen += 1
            return place == self._chosen

    def add(self, early: Sequence[int], full: Sequence[int], threshold: Any = None) -> Alarm | None:
        """Compare a request's answers; an alarm the first time that the lower bound is above the limit.

        Args:
            early: the tokens that were answered.
            full: those of full depth.
            threshold: at which the request was answered; None: the monitor's. Where that has risen since, nothing is done.
        """
        with self._lock:
            if threshold is not None and threshold != self.threshold:
                return None
            before = self._sequence.exceeded
            if not self._sequence.add(disagreement(early, full, self.unit)) or before:
                return None
            return self._alarm()

    def _alarm(self) -> Alarm:
        now, sequence, raised = self.threshold, self._sequence, None
        if self._stricter:
            raised = self._stricter.pop(0)
            self.threshold = raised
            self._sequence = ConfidenceSequence(sequence.limit, sequence.confidence, sequence.block)
        alarm = Alarm(now, sequence.count, sequence.mean, sequence.lower(), sequence.limit, raised)
        self.alarms.append(alarm)
        LOG.warning(
            "drift%s: at threshold %s, %.4f of %d sampled %ss differ from full depth, at least %.4f at confidence %g; the "
            "limit is %.4f; %s",
            f" of {self.name}" if self.name else "",
            now,
            alarm.mean,
            alarm.samples,
            self.unit,
            alarm.lower,
            sequence.confidence,
            alarm.limit,
            "calibrate on data like this" if raised is None else f"the threshold is now {raised}",
        )
        return alarm

    def metrics(self) -> dict[str, float]:
        """Numbers for a metrics page, by name; of the present threshold but for the alarms."""
        with self._lock:
            sequence, threshold = self._sequence, self.threshold
            return {
                "samples": sequence.count,
                "disagreement": sequence.mean,
                "disagreement_lower": sequence.lower(),
                "disagreement_limit": sequence.limit,
                "evidence": sequence.capital,
                "alarms": len(self.alarms),
                "threshold": min(threshold) if isinstance(threshold, list) else threshold,
            }

    def report(self) -> dict[str, Any]:
        """All there is to know, for JSON."""
        return {**self.metrics(), "every": self.every, "unit": self.unit, "alarms": [asdict(a) for a in self.alarms]}


def disagreement(early: Sequence[int], full: Sequence[int], unit: Unit = "answer") -> float:
    """How much two answers differ, in [0, 1].

    Args:
        early: tokens.
        full: tokens.
        unit: `"answer"`: 1 where they differ at all. `"token"`: the share of places that differ, of the longer answer.
    """
    if list(early) == list(full):
        return 0.0
    if unit == "answer":
        return 1.0
    same = sum(a == b for a, b in zip(early, full, strict=False))
    return 1 - same / max(len(early), len(full))


def limit_of(config: Any) -> float:
    """Which share of answers may differ from those of full depth, by a model's calibration.

    `deed.calibrate` bounds how much score early exit costs, by `risk`. An answer can cost score only where it differs, but not
    every answer that differs is worse. So the limit is what calibration found: the upper bound of the share that differed
    there, at the calibration's confidence, or `risk` where that is more; of a model for several tasks the largest of theirs,
    since nobody knows which requests will come.

    Args:
        config: the model's `deed_config`.

    Raises:
        CalibrationError: the model is not calibrated, or by a deed that did not count differing answers.
    """
    report = config.calibration
    if not report or report.get("threshold") != config.threshold or _nothing_exits(config.threshold):
        raise CalibrationError(
            "drift is measured against a calibrated threshold, and this model has none; run deed calibrate, or give a limit"
        )
    if "disagreement_bound" not in report:
        raise CalibrationError(
            "this model's calibration did not count answers that differ from full depth; run deed calibrate again, or give "
            "a limit"
        )
    counted = [each for each in (report, *report.get("others", ())) if "disagreement_bound" in each]
    return max(float(each[bound]) for each in counted for bound in ("risk", "disagreement_bound"))


def stricter_thresholds(config: Any) -> list[float]:
    """Where a threshold can rise to: what calibration accepted beyond it (the bound holds for all of these at once), else the
    points of the recorded curve; in the end full depth.

    Args:
        config: the model's `deed_config`.
    """
    now = config.threshold
    now = max(now) if isinstance(now, list) else now
    rows = [row for row in (config.calibration or {}).get("tested", ()) if row["accepted"]]
    rows = rows or (config.curve or {}).get("points", ())
    values = {row["threshold"] for row in rows if isinstance(row["threshold"], float | int)}
    return [*sorted(value for value in values if now < value <= 1), NEVER_EXIT]


def _nothing_exits(threshold: Any) -> bool:
    return min(threshold if isinstance(threshold, list | tuple) else [threshold]) > 1
