"""Asking twice: a cheap first look at an exit, the exact head only for the rows about which it says "maybe".

A row leaves only if the policy, given the exact logits, says so: it never leaves where plain asking would not. It stays
where the first look wrongly says no, and then goes deeper, which costs time, not quality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..measures import Confidence
from ..policy import ExitPolicy, ThresholdPolicy
from ..query import Ask


class Look(Protocol):
    """A cheap way to look at an exit.

    Attributes:
        equals_plain: tokens and depths are those of plain asking (else rows may leave later, see the class).
        confirms: the exact head has the last word; False where the look's own logits answer.
    """

    equals_plain: bool
    confirms: bool

    def begin(self) -> Look:
        """The look for one generation; with a state of its own if it has any."""
        ...

    def serves(self, ask: Ask) -> bool:
        """Whether there is a cheap look at this exit now; where not, it is asked plainly."""
        ...

    def logits(self, ask: FirstLook) -> torch.Tensor:
        """`[r, vocab]` rough logits."""
        ...

    def policy(self, policy: ExitPolicy) -> ExitPolicy:
        """Who says maybe: `policy` as it is to see rough logits."""
        ...


@dataclass
class FirstLook(Ask):
    """An exit seen through a `Look`: the same question with rough logits.

    Attributes:
        refined: `[r, k]`, tokens whose logits are exact after all, or None.
        error, rounding: `[r]`, bounds on how far other logits, and refined ones, are from the exact head's; set by
            looks that know.
    """

    look: Look | None = None
    refined: torch.Tensor | None = None
    error: torch.Tensor | None = None
    rounding: torch.Tensor | None = None

    @property
    def logits(self) -> torch.Tensor:
        found = self.__dict__.get("logits_seen")
        if found is None:
            assert self.look is not None
            found = self.__dict__["logits_seen"] = self.look.logits(self)
        return found

    @property
    def looked(self) -> bool:
        return "logits_seen" in self.__dict__


class AskedPolicy:
    """`policy`, asked through `look` first. An `ExitPolicy` itself.

    State is that of one generation: `generate()` works with what `begin` gives, so one object may be used many times and by
    several threads.

    Attributes:
        looked_rows: rows looked at cheaply.
        confirmed_rows: those of them for which the exact head was run.
    """

    remembers = False

    def __init__(self, policy: ExitPolicy, look: Look) -> None:
        if policy.remembers:
            raise ValueError("a measure that remembers every exit's token (patience) has to be asked plainly")
        self.inner, self.look = policy, look
        self.first = look.policy(policy)
        self.exits_early = policy.exits_early
        self.looked_rows = self.confirmed_rows = 0

    def begin(self, n_rows: int) -> AskedPolicy:
        """A fresh copy for a generation of `n_rows` decoder rows."""
        begin = getattr(self.inner, "begin", None)
        return type(self)(self.inner if begin is None else begin(n_rows), self.look.begin())

    def leaves(self, ask: Ask) -> torch.Tensor:
        """See `ExitPolicy`. Sets `ask.narrowed` where it computed the logits of some rows only."""
        if not self.look.serves(ask):
            return self.inner.leaves(ask)
        seen = FirstLook(
            ask.depth,
            ask.exit_index,
            ask.is_last,
            ask.step,
            ask.rows,
            ask.hidden,
            ask.previous,
            ask.head,
            ask.allowed,
            ask.earlier,
            look=self.look,
        )
        maybe = self.first.leaves(seen)
        if not seen.looked:  # decided without logits, or not asked at all: nothing to confirm
            return maybe if self.first is self.inner else self.inner.leaves(ask)
        self.looked_rows += len(maybe)
        picked = maybe.nonzero()[:, 0]  # the one wait for the device
        if len(picked) == 0:
            return maybe
        everyone = len(picked) == len(maybe)
        if not self.look.confirms:
            ask.narrowed = picked, seen.logits if everyone else seen.logits[picked]
            return maybe
        self.confirmed_rows += len(picked)
        if everyone:
            return self.inner.leaves(ask)
        some = ask.only(picked)
        yes = self.inner.leaves(some)
        if some.looked:
            ask.narrowed = picked, some.logits
        return torch.zeros_like(maybe).index_copy_(0, picked, yes)

    def to_dict(self) -> dict[str, Any]:
        """JSON form: that of the policy inside, and the kind of look."""
        inner = self.inner.to_dict() if hasattr(self.inner, "to_dict") else type(self.inner).__name__
        return {"policy": inner, "look": type(self.look).__name__}


@dataclass(frozen=True)
class Loosened:
    """A measure that gives `slack` more than it measures, at most 1."""

    measure: Confidence
    slack: float
    remembers = False

    def __call__(self, ask: Ask) -> torch.Tensor:
        return (self.measure(ask) + self.slack).clamp(max=1)


def loosen(policy: ExitPolicy, slack: float) -> ExitPolicy:
    """`policy` with a first look's thresholds `slack` lower."""
    if slack == 0 or not isinstance(policy, ThresholdPolicy):
        return policy
    return replace(policy, confidence=Loosened(policy.confidence, slack))
