"""How far to draft: which exits to trust, and when to verify. Decides time alone, never a token.

Everything is measured while decoding. *Costs*: running medians of a drafting pass by its depth and of a verifying pass by
its width. *Chances*: for each exit and range of confidence, how often the last layer agreed with the exit's token; every
verified position tells so for all exits that were asked there, whether or not the token was drafted from them. *Rate*: tokens
that became final per second.

One more drafting pass pays while the tokens it is expected to bring (the chance that a row's whole run of drafts stands, and
the next one too, summed over the rows) per second that it takes exceed the rate; otherwise it is time to verify. This is the
marginal value theorem for a renewal process, and needs no draft length as a parameter: the length follows. A row goes up to
the next exit where the better chance there is worth a layer's time at the same rate.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

LONGEST = 16  # drafts of a row before it is verified
WARM = 4  # cycles before what was measured decides; drafts of a row until then
BINS = 16  # ranges of confidence: each halves what is missing to 1 by a factor of root 2
KEPT = 24  # measurements that a median is of, cycles that the rate is of
FORGET = 2048  # verdicts of an exit after which old ones count half


def bin_of(confidence: float) -> int:
    """The range that a confidence is in."""
    if not confidence < 1:
        return BINS - 1
    return max(0, min(BINS - 1, int(-2 * math.log2(1 - confidence))))


@dataclass
class Cost:
    """Running medians of seconds, by a number (a depth, a width)."""

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    newest: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, key: int, seconds: float) -> None:
        """Take in a measurement."""
        self.seconds.setdefault(key, deque(maxlen=KEPT)).append(seconds)
        self.newest.append(seconds)

    @property
    def usual(self) -> float:
        """The median of the newest, whatever their key; 0 before any was measured."""
        return statistics.median(self.newest) if self.newest else 0.0

    def at(self, key: int) -> float | None:
        """The median at the nearest key that was measured; None before any was."""
        if not self.seconds:
            return None
        return statistics.median(self.seconds[min(self.seconds, key=lambda k: (abs(k - key), k))])

    def per_step(self) -> float:
        """By how much the median rises with the key, between the lowest and the highest measured."""
        low, high = min(self.seconds, default=0), max(self.seconds, default=0)
        if low == high:
            return 0.0
        return max(0.0, statistics.median(self.seconds[high]) - statistics.median(self.seconds[low])) / (high - low)


@dataclass
class Tuner:
    """What was learned of a model at one batch size.

    Args:
        exits: depths of the exits, the last not among them.

    Attributes:
        draft, verify: costs by depth and by positions of the widest row.
        agreed, seen: `[exit][bin]`, verdicts.
        above: `[exit]`, of the rows that went on from there: verdicts on the next exit's token, agreed and all.
        cycles: tokens and seconds of the newest cycles, a cycle ending with its verification.
    """

    exits: list[int]
    draft: Cost = field(default_factory=Cost)
    verify: Cost = field(default_factory=Cost)
    agreed: list[list[float]] = field(default_factory=list)
    seen: list[list[float]] = field(default_factory=list)
    above: list[list[float]] = field(default_factory=list)
    cycles: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    count: int = 0
    accepted: float = 3.0
    judged: float = 4.0

    def __post_init__(self) -> None:
        for e in range(len(self.exits)):
            middles = [1 - 2 ** (-(b + 0.5) / 2) for b in range(BINS)]
            self.agreed.append(
                [4 * m for m in middles]
            )  # as if a confidence were the chance, until counts say otherwise
            self.seen.append([4.0] * BINS)
            self.above.append([3.0, 4.0] if e + 1 < len(self.exits) else [0.0, 1.0])

    @property
    def warm(self) -> bool:
        """Whether enough was measured to decide by it."""
        return self.count >= WARM

    @property
    def rate(self) -> float:
        """Tokens per second."""
        seconds = sum(s for _, s in self.cycles)
        return sum(n for n, _ in self.cycles) / seconds if seconds else 0.0

    def chance(self, exit_index: int, confidence: float) -> float:
        """How likely the last layer agrees with a token of this exit."""
        b = bin_of(confidence)
        return self.agreed[exit_index][b] / self.seen[exit_index][b]

    def verdict(self, asked: list[tuple[int, int, int]], token: int) -> None:
        """Learn from a verified position.

        Args:
            asked: `(exit, bin, its token)` of the exits asked there, from the bottom.
            token: the last layer's.
        """
        for i, (e, b, said) in enumerate(asked):
            agrees = said == token
            self.agreed[e][b] += agrees
            self.seen[e][b] += 1
            if self.seen[e][b] > FORGET:
                self.agreed[e][b] /= 2
                self.seen[e][b] /= 2
            if i and asked[i - 1][0] == e - 1:
                self.above[e - 1][0] += agrees
                self.above[e - 1][1] += 1

    def judge(self, accepted: bool) -> None:
        """Learn whether a draft stood."""
        self.accepted += accepted
        self.judged += 1
        if self.judged > FORGET:
            self.accepted /= 2
            self.judged /= 2

    def cycle(self, tokens: int, seconds: float) -> None:
        """Take in a finished cycle."""
        self.cycles.append((tokens, seconds))
        self.count += 1

    def drafts_on(self, chains: list[float]) -> bool:
        """Whether another drafting pass pays.

        Args:
            chains: of each row that would take part, the chance that all of its drafts so far stand.
        """
        return sum(chains) * self.accepted / self.judged >= self.draft.usual * self.rate

    def goes_up(self, exit_index: int, rows: list[tuple[float, float]]) -> tuple[list[bool], bool]:
        """Which rows exit, and whether the others go up to the next exit; those that do not exit otherwise wait.

        Args:
            exit_index: where they are.
            rows: of each the chance that its drafts so far stand, and that of this exit's token.
        """
        good, of = self.above[exit_index]
        length = sum(n for n, _ in self.cycles) / len(self.cycles) / len(rows) if self.cycles else 1.0
        gains = [max(0.0, good / of - p) * chain * length for chain, p in rows]
        if sum(gains) <= self.draft.per_step() * self.rate:
            return [True] * len(rows), False
        return [gain == 0 for gain in gains], True


_learned: WeakKeyDictionary[Any, dict[Any, Tuner]] = WeakKeyDictionary()


def borrow(model: Any, key: Any, exits: list[int]) -> Tuner:
    """What was learned of a model under `key`, for the caller alone until `give_back`; a fresh one where there is none.

    Args:
        model: a deed model.
        key: what costs and chances depend on: batch size, confidence measure.
        exits: see `Tuner`.
    """
    return _learned.setdefault(model, {}).pop((key, tuple(exits)), None) or Tuner(exits)


def give_back(model: Any, key: Any, tuner: Tuner) -> None:
    """Keep what was learned for the next generation."""
    _learned.setdefault(model, {})[key, tuple(tuner.exits)] = tuner
