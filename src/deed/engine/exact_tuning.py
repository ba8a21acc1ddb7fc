"""How far to draft: which exits to trust, and when to verify. Decides time alone, never a token.

Everything is measured while decoding. *Costs*: running medians of a drafting pass by its depth and of a verifying pass by
its width, for a batch of one row, of two or three, of four to seven … *Chances*: for each exit and range of confidence, how
often the last layer agreed with the exit's token; every verified position tells so for all exits that were asked there,
whether or not the token was drafted from them.

*Rate*: tokens that became final per second.

One more drafting pass pays while the tokens it is expected to bring (the chance that a row's whole run of drafts stands, and
the next one too, summed over the rows) per second that it takes reach the rate: the marginal value theorem for a renewal
process. So a row's confident run is long, and an unsure draft ends it. A row goes up to the next exit where the better chance
there is worth a layer's time at the same rate. Where costs and the share of drafts that stand say that no draft length is
faster than full depth, or where the rate is below full depth's because answers are short, nothing is drafted.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

LONGEST = 16  # drafts of a row before it is verified
WARM = 4  # cycles before what was measured decides; drafts of a row until then
BINS = 16  # ranges of confidence: each halves what is missing to 1 by a factor of root 2
KEPT = 24  # measurements that a median is of, cycles that the rate is of
FADING = 0.95  # what a cycle's tokens and seconds count for in the rate, one cycle later
RENEWED = 8  # verifying passes after which costs are looked at anew
MARGIN = 1.05  # by how much full depth has to be faster for drafting to stop
PAUSE, LONG_PAUSE = 16, 256  # verifying passes until it is tried again: at first, and at most
PRIOR = 2.0  # verdicts that a confidence counts as before there are any
FORGET = 2048  # verdicts of an exit after which old ones count half


def bin_of(confidence: float) -> int:
    """The range that a confidence is in."""
    if not confidence < 1:
        return BINS - 1
    return max(0, min(BINS - 1, int(-2 * math.log2(1 - confidence))))


class Cost:
    """Running medians of a pass's seconds by a number (its depth, its width), and the line through them."""

    def __init__(self) -> None:
        self.seconds: dict[int, deque[float]] = {}

    def add(self, key: int, seconds: float) -> None:
        """Take in a measurement."""
        self.seconds.setdefault(key, deque(maxlen=KEPT)).append(seconds)

    def line(self) -> tuple[float, float]:
        """Seconds at 0 and per 1: least squares through the medians, each counting as often as it was measured; neither is
        negative."""
        points = [(k, statistics.median(s), len(s)) for k, s in self.seconds.items()]
        total = sum(w for *_, w in points)
        x, y = (sum(p[i] * p[2] for p in points) / total for i in (0, 1))
        spread = sum(w * (k - x) ** 2 for k, _, w in points)
        slope = sum(w * (k - x) * (s - y) for k, s, w in points) / spread if spread else 0.0
        slope = min(max(slope, 0.0), y / x)
        return y - slope * x, slope


class Plan(NamedTuple):
    """What follows from the costs at a number of rows.

    Attributes:
        length: the draft length that makes the most tokens final per second; 0: none.
        rate: how many of one row that would be in an endless answer.
        draft: seconds of a drafting pass, `layer` of one more layer in it, `verify` of a verifying pass.
    """

    length: int
    rate: float
    draft: float
    layer: float
    verify: float


@dataclass
class Tuner:
    """What was learned of a model at one batch size.

    Args:
        exits: depths of the exits, the last not among them.

    Attributes:
        draft, verify: costs by depth and by positions of the widest row, by `size` of the batch.
        agreed, seen: `[exit][bin]`, verdicts.
        above: `[exit]`, of the rows that went on from there: verdicts on the next exit's token, agreed and all.
        final: tokens of one row that became final, seconds, and cycles, by `size` of the batch; older ones count less.
        cycles: how many verifications there were.
        tried_until: up to that one, the exit policy decides and costs are measured.
        stopped_at: from where on drafts did not pay; `pause`: for how many cycles none are tried.
    """

    exits: list[int]
    draft: dict[int, Cost] = field(default_factory=dict)
    verify: dict[int, Cost] = field(default_factory=dict)
    agreed: list[list[float]] = field(default_factory=list)
    seen: list[list[float]] = field(default_factory=list)
    above: list[list[float]] = field(default_factory=list)
    cycles: int = 0
    tried_until: int = WARM
    stopped_at: int | None = None
    pause: int = PAUSE
    accepted: float = 7.0
    judged: float = 8.0
    final: dict[int, tuple[float, float, int]] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for e in range(len(self.exits)):
            middles = [1 - 2 ** (-(b + 0.5) / 2) for b in range(BINS)]
            self.agreed.append([PRIOR * m for m in middles])  # as if a confidence were the chance, until counts say so
            self.seen.append([PRIOR] * BINS)
            self.above.append([3.0, 4.0] if e + 1 < len(self.exits) else [0.0, 1.0])

    @property
    def warm(self) -> bool:
        """Whether enough was measured, and lately enough, to decide by it."""
        return self.cycles >= self.tried_until

    @property
    def share(self) -> float:
        """The share of drafts that stand."""
        return self.accepted / self.judged

    def drafted(self, rows: int, depth: int, seconds: float) -> None:
        """Take in a drafting pass.

        Args:
            rows: how many were decoding.
            depth: how deep it went.
            seconds: how long it took.
        """
        self.draft.setdefault(size(rows), Cost()).add(depth, seconds)

    def verified(self, rows: int, width: int, seconds: float, tokens: int, since: float) -> None:
        """Take in a verifying pass.

        Args:
            rows: how many it had.
            width: positions of the row with the most.
            seconds: how long it took.
            tokens: how many became final.
            since: seconds since the pass before it, drafting included; 0 where nothing was drafted.
        """
        if since and self.warm:
            final, spent, n = self.final.get(size(rows), (0.0, 0.0, 0))
            self.final[size(rows)] = FADING * final + tokens / rows, FADING * spent + since, n + 1
        self.verify.setdefault(size(rows), Cost()).add(width, seconds)
        self.cycles += 1
        if self.cycles % RENEWED == 0 or self.cycles == self.tried_until:
            self.plans.clear()
        if not self.plan(rows).length and self.warm:
            if self.stopped_at is None:
                self.stopped_at = self.cycles
            elif self.cycles - self.stopped_at >= self.pause:
                self.tried_until, self.stopped_at = self.cycles + WARM, None
                self.pause = min(2 * self.pause, LONG_PAUSE)
                self.final.clear()
        elif self.warm:
            self.stopped_at, self.pause = None, PAUSE

    def rate(self, rows: int) -> float:
        """Tokens of one row that become final per second while so many are decoding."""
        tokens, seconds, n = self.final.get(size(rows), (0.0, 0.0, 0))
        return tokens / max(seconds, 1e-9) if n >= WARM else self.plan(rows).rate

    def plan(self, rows: int) -> Plan:
        """What pays while so many rows are decoding."""
        at = size(rows)
        if at not in self.plans:
            fixed, wider = _nearest(self.verify, at).line()
            start, layer = _nearest(self.draft, at).line() if self.draft else (0.0, 0.0)
            once = start + layer * min(self.exits, default=0)
            tokens, rates = 0.0, []
            for k in range(LONGEST + 1):
                tokens += self.share**k
                rates.append(tokens / max(k * once + fixed + (k + 1) * wider, 1e-9))
            best = max(range(1, LONGEST + 1), key=rates.__getitem__)
            final, seconds, n = self.final.get(at, (0.0, 0.0, 0))
            short = n >= RENEWED and final < seconds * rates[0]  # answers end before a run has paid
            if not self.draft or short or rates[0] > MARGIN * rates[best]:
                best = 0
            self.plans[at] = Plan(best, rates[best], once, layer, fixed + wider)
        return self.plans[at]

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

    def drafts_on(self, chains: list[float], rows: int) -> bool:
        """Whether another drafting pass pays.

        Args:
            chains: of each row that would take part, the chance that all of its drafts so far stand.
            rows: how many are decoding.
        """
        plan = self.plan(rows)
        if not plan.length or not chains:
            return False
        return sum(chains) * self.share >= plan.draft * self.rate(rows) * rows

    def goes_up(self, exit_index: int, rows: list[tuple[float, float]], decoding: int) -> tuple[list[bool], bool]:
        """Which rows exit, and whether the others go up to the next exit; those that do not exit otherwise wait.

        Args:
            exit_index: where they are.
            rows: of each the chance that its drafts so far stand, and that of this exit's token.
            decoding: how many rows are decoding.
        """
        plan, (good, of) = self.plan(decoding), self.above[exit_index]
        # A run that ends early costs, in tokens, its part of a verifying pass; half of the run is still to come.
        rate = self.rate(decoding)
        worth = plan.verify * rate / 2
        gains = [max(0.0, good / of - p) * chain * worth for chain, p in rows]
        if sum(gains) <= plan.layer * rate * decoding:
            return [True] * len(rows), False
        return [gain == 0 for gain in gains], True


def size(rows: int) -> int:
    """Batches of like size cost alike: 1 for one row, 2 for two or three, 3 for four to seven …"""
    return rows.bit_length()


def _nearest(costs: dict[int, Cost], at: int) -> Cost:
    """The cost at the size nearest to this one."""
    return costs[min(costs, key=lambda n: (abs(n - at), n))]


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
    """Keep what was learned for the next generation.

    Args:
        model: a deed model.
        key: as for `borrow`.
        tuner: what `borrow` gave.
    """
    _learned.setdefault(model, {})[key, tuple(tuner.exits)] = tuner
