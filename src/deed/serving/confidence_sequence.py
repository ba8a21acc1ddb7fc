"""A lower confidence bound on a mean that holds at every moment: a mixture of betting martingales.

For losses X in [0, 1] and a hypothetical mean m, capital that bets the share c on "more than m" is multiplied by
1 + c (X / m - 1) with each loss (Waudby-Smith and Ramdas, *Estimating means of bounded random variables by betting*, JRSS-B
2024, section 4). If the mean of every loss, given those before, is at most m, capital is a supermartingale that starts at 1,
and by Ville's inequality it ever reaches 1 / alpha with probability at most alpha. The same holds for a mixture of several
bets, and of bets that start later: their money lies idle until then. Bets that start later find a change that comes late,
when the first have lost what they had (Shin, Ramdas and Rinaldo, *E-detectors*, 2024, discuss such mixtures).
"""

from __future__ import annotations

import math

import numpy as np

BETS = np.geomspace(0.002, 0.9, 16)  # shares of the largest bet: small ones find small excesses
LEVELS = 64  # a loss is rounded down to a multiple of 1/64, which can only lower the bound
BLOCK = 256  # losses after which the next bets start
KEPT = 128  # bets by starting time that are kept; the oldest are given up, which can only lower capital


class ConfidenceSequence:
    """Losses one by one, the capital of betting that their mean exceeds `limit`, and the lower bound of the mean.

    Args:
        limit: in (0, 1).
        confidence: of the bound at all times together, in (0, 1).
        block: losses after which the next bets start.

    Attributes:
        count, total: of the losses so far (before rounding).

    Raises:
        ValueError: a limit or a confidence out of range.
    """

    def __init__(self, limit: float, confidence: float = 0.95, block: int = BLOCK) -> None:
        for name, value in (("limit", limit), ("confidence", confidence)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")
        self.limit, self.confidence, self.block = limit, confidence, block
        self.count, self.total = 0, 0.0
        self._seen = np.zeros(LEVELS + 1)  # how often each rounded loss was seen
        self._before = np.zeros((0, LEVELS + 1))  # the same when each of the bets started
        self._logs = np.zeros((0, len(BETS)))  # log capital at `limit`: starting times x bets
        self._log_weights = np.zeros(0)  # of the starting times
        self._idle = 1.0  # money of bets that have not started
        self._steps = np.log1p(BETS * (np.arange(LEVELS + 1)[:, None] / LEVELS / limit - 1))
        self._highest = 1.0

    def add(self, loss: float) -> bool:
        """Take in a loss in [0, 1]; whether the lower bound is, or has ever been, above `limit`.

        Raises:
            ValueError: a loss outside [0, 1].
        """
        if not 0 <= loss <= 1:
            raise ValueError(f"a loss must lie in [0, 1], got {loss!r}")
        if self.count % self.block == 0:
            self._start()
        level = math.floor(loss * LEVELS)
        self.count += 1
        self.total += loss
        self._seen[level] += 1
        self._logs += self._steps[level]
        self._highest = max(self._highest, self.capital)
        return self.exceeded

    def _start(self) -> None:
        """The next bets: the k-th starting time gets 1 / (k (k + 1)) of the money, so that all of them get 1."""
        k = self.count // self.block + 1
        self._idle = 1 / (k + 1)
        self._before = np.vstack([self._before, self._seen])[-KEPT:]
        self._logs = np.vstack([self._logs, np.zeros(len(BETS))])[-KEPT:]
        self._log_weights = np.append(self._log_weights, -math.log(k * (k + 1) * len(BETS)))[-KEPT:]

    @property
    def capital(self) -> float:
        """What betting on "the mean exceeds `limit`" has made of 1: evidence by an e-value."""
        return self._idle + float(np.exp(np.minimum(self._logs + self._log_weights[:, None], 700)).sum())

    @property
    def exceeded(self) -> bool:
        """Whether capital has ever reached 1 / (1 - confidence)."""
        return self._highest * (1 - self.confidence) >= 1

    @property
    def mean(self) -> float:
        """Of the losses so far; nan without any."""
        return self.total / self.count if self.count else math.nan

    def lower(self) -> float:
        """The largest mean against which there is now evidence of 1 / (1 - confidence); 0 where there is none.

        Where losses change with time, it bounds the mean since one of the starting times: "it has been at least this for a
        while". It exceeds `limit` when `capital` is beyond 1 / (1 - confidence).
        """
        counts = self._seen - self._before  # of the losses that each bet has seen
        values = np.arange(LEVELS + 1) / LEVELS

        def evidence(mean: float) -> float:
            steps = np.log1p(BETS[:, None] * (values / mean - 1))  # bets x levels
            logs = counts @ steps.T + self._log_weights[:, None]
            return self._idle + float(np.exp(np.minimum(logs, 700)).sum())

        low, high = 0.0, 1.0
        for _ in range(40):  # evidence falls as the mean rises
            middle = (low + high) / 2
            if evidence(middle) * (1 - self.confidence) >= 1:
                low = middle
            else:
                high = middle
        return low
