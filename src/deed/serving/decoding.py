"""`Decoding`: the running batches of a scheduler. Rows join, get their tokens step by step, and leave.

Every row has its own logits processors, stopping criteria, generator and exit policy. A step that raises is run again row by
row, and fails those alone that raise then. Exact rows draft and are verified in the same steps (`engine/drafting.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch

from deed.engine.batch import RunningBatch
from deed.engine.drafting import Pace
from deed.engine.state import Plan

from .admission import Admission, lost
from .metrics import Metrics
from .row import Row

log = logging.getLogger(__name__)

FAST, RECENT = 0.1, 0.9  # what a new step counts for in the mean time of a step, and the mean before it


class Decoding:
    """The rows that decode.

    Args:
        model: a deed model.
        admission: where rows come from, and where they end.
        metrics: counts steps and tokens.

    Attributes:
        batches: those that rows can share, with their rows in order.
        step_s: seconds that a step took lately.
    """

    def __init__(self, model: Any, admission: Admission, metrics: Metrics) -> None:
        self.model, self.admission, self.metrics = model, admission, metrics
        self.batches: list[tuple[RunningBatch, list[Row]]] = []
        self.step_s = 0.0
        self.pace = Pace(model)
        self._plan: Plan | None = None

    @property
    def cache_bytes(self) -> int:
        """Bytes that running rows hold."""
        return sum(batch.cache_bytes for batch, _ in self.batches)

    def turn(self) -> None:
        """Let lost rows leave and encoded ones join, and decode a token of every row."""
        self.give_up()
        if self.admission.ready:
            self._join(self.admission.take_ready())
        for batch, rows in list(self.batches):
            self._step(batch, rows)

    def give_up(self) -> None:
        """Free what was cancelled or has come too late."""
        gone = self.admission.lost()
        if not gone:
            return
        away = {id(row) for row, _ in gone}
        for batch, rows in list(self.batches):
            leaving = [row for row in rows if id(row) in away]
            if leaving:
                self._leave(batch, rows, leaving)
        for row, why in gone:
            self.admission.end(row, why)

    def _join(self, ready: Iterable[Row]) -> None:
        """Let encoded rows join the first batch that they can share, or begin one."""
        for row in ready:
            error = lost(row, time.monotonic())
            if error is not None:
                self.admission.end(row, error)
                continue
            new = row.start(self.pace)
            for batch, rows in self.batches:
                try:
                    batch.add(new)
                except ValueError:
                    continue
                rows.append(row)
                break
            else:
                batch = RunningBatch(self.model, self._plan)
                try:
                    batch.add(new)
                except Exception as refusal:
                    self.admission.end(row, refusal)
                    continue
                self._plan = batch.plan
                self.batches.append((batch, [row]))

    def _leave(self, batch: RunningBatch, rows: list[Row], gone: list[Row]) -> None:
        away = {id(row) for row in gone}
        order = batch.leave({i for i, row in enumerate(rows) if id(row) in away})
        rows[:] = [rows[i] for i in order]
        if not rows:
            self.batches = [(b, r) for b, r in self.batches if b is not batch]

    def _step(self, batch: RunningBatch, rows: list[Row]) -> None:
        """A step of all rows of a batch; those that end, or fail, leave it."""
        began = time.monotonic()
        for row in rows:
            if row.drafts is not None:
                row.begin_step()
        failed: dict[int, BaseException] = {}
        try:
            logits, depths, verdicts = batch.step([row.newest for row in rows])
        except Exception as error:
            logits, depths, verdicts, failed = self._step_alone(batch, rows, error)
        chosen, confidences = choose(rows, logits, failed)
        now = time.monotonic()
        self.step_s = RECENT * self.step_s + FAST * (now - began) if self.step_s else now - began
        ended: list[tuple[Row, BaseException | None, str]] = []
        given: list[int] = []  # depths of all new tokens
        gaps = [now - row.stepped for r, row in enumerate(rows) if row.stepped and r not in failed]
        firsts, gone = list[float](), dict[int, int]()
        for r, row in enumerate(rows):
            if r in failed:
                ended.append((row, failed[r], ""))
                continue
            before, first = len(row.depths), row.first
            try:
                reason = None
                if row.drafts is None:
                    reason = row.take(chosen[r], depths[r], confidences[r], now)
                elif depths[r] < self.pace.n_layers:
                    row.draft(logits[r : r + 1], depths[r])
                else:
                    found = logits[r : r + 1]
                    found = found if r not in verdicts else torch.cat([verdicts[r], found])
                    reason, gone[r] = row.verified(found, now)
            except Exception as error:  # a stopping criterion's, or a processor's
                ended.append((row, error, ""))
                continue
            row.stepped = now
            given += row.depths[before:]
            if not first and row.first:
                firsts.append(now - row.ticket.submitted)
            if reason is not None:
                ended.append((row, None, reason))
        self.metrics.stepped(now - began, now, len(rows) - len(failed), given, gaps, firsts)
        batch.rollback(gone)
        if ended:
            self._leave(batch, rows, [row for row, *_ in ended])
            for row, why, reason in ended:
                self.admission.end(row, why, reason or "")

    def _step_alone(
        self, batch: RunningBatch, rows: list[Row], error: Exception
    ) -> tuple[torch.Tensor, list[int], dict[int, torch.Tensor], dict[int, BaseException]]:
        """A step that raised, once more row by row, to find out whose fault it is."""
        log.warning("a step of %d rows failed and is run row by row: %s", len(rows), error)
        failed: dict[int, BaseException] = {}
        found: list[torch.Tensor | None] = []
        depths: list[int] = []
        verdicts: dict[int, torch.Tensor] = {}
        for r, row in enumerate(rows):
            if row.drafts is not None:
                row.begin_step()  # what the step that raised had asked its exits does not count
            try:
                logits, depth, own_verdicts = batch.step_one(r, row.newest)
                found.append(logits)
                depths.append(depth)
                verdicts |= own_verdicts
            except Exception as own:
                failed[r] = own
                found.append(None)
                depths.append(0)
        like = next((x for x in found if x is not None), None)
        if like is None:
            return torch.zeros(len(rows), 1), depths, verdicts, failed
        return torch.cat([torch.zeros_like(like) if x is None else x for x in found]), depths, verdicts, failed


def choose(
    rows: list[Row], logits: torch.Tensor, failed: dict[int, BaseException]
) -> tuple[list[int], list[float | None]]:
    """The token of each row that is not exact, by its own processors and generator, and the confidence in it.

    Args:
        rows: of the batch.
        logits: `[rows, vocab]`, raw.
        failed: rows that have none; whose processors raise is added.
    """
    scores = logits.to(torch.float32)
    best = scores.argmax(-1).tolist()
    for r, row in enumerate(rows):
        if r not in failed and row.drafts is None and not row.is_plain:
            try:
                best[r] = row.choose(logits[r : r + 1])
            except Exception as error:  # a processor's
                failed[r] = error
    confidences: list[float | None] = [None] * len(rows)
    wanted = [r for r, row in enumerate(rows) if row.confidence and row.drafts is None and r not in failed]
    if wanted:
        part = scores if len(wanted) == len(rows) else scores[wanted]
        at = torch.tensor([best[r] for r in wanted], device=part.device)[:, None]
        chances = (part.gather(1, at)[:, 0] - part.logsumexp(-1)).exp().tolist()
        for r, chance in zip(wanted, chances, strict=True):
            confidences[r] = chance
    return best, confidences
