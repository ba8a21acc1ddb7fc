"""Drafts of exact rows in a running batch (`batch.py`): which exits to trust, and when a row goes up to be verified.

An exact row takes part in everyone's steps. Where it exits early, its token is a draft, which is fed to the next step like
any other. When it goes up to the last layer, the catch-up that the staircase owes completes all its drafted positions as well,
and the last layer says what each of them should have been. So verifying needs no pass of its own, and decides nothing but
time: tokens are the last layer's, whatever is drafted.

How far is drafted follows from what was seen, as in `exact_tuning.py`, but costs are counted in layers instead of measured,
since a step's time is that of all its rows: another draft pays while the chance that it stands is worth, at the present rate
of tokens per layer, the layers that it takes (the marginal value theorem for a renewal process).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from deed.exits.draft_head import exit_head_cost
from deed.policies.policy import ExitPolicy
from deed.policies.query import ExitDecision, ExitQuery

from .exact_tuning import FADING, LONGEST, Tuner, bin_of

RETRY = 32  # verified tokens after which a row drafts once although it does not seem to pay
TOGETHER = 2  # drafts from which a row is verified with others, whose layers run in any case
HEAD = 16  # weights of a layer by d_model squared, roughly: what a run of the head is compared with


class Pace:
    """What was learned of a model's drafts; shared by all its exact rows.

    Args:
        model: a deed model.
    """

    def __init__(self, model: Any) -> None:
        family = model.deed_family
        self.n_layers = len(family.layers(model))
        self.exits = [depth for depth in model.deed_config.exit_layers if depth < self.n_layers]
        self.head = family.vocab_size(model) / (HEAD * family.d_model(model))  # a run of it, in layers
        # What an exit that is asked takes, in layers: its head, and the layer that it may have of its own.
        draft = self.head if model.deed_config.draft_head is None else exit_head_cost(model)
        self.ask = draft + (model.deed_config.adapter == "layer")
        self.tuner = Tuner(self.exits)
        self._tokens = self._cost = 0.0
        self._exits = 1.0  # of the steps that asked exits, lately, how many gave a draft

    @property
    def rate(self) -> float:
        """Tokens per layer, at least those of full depth."""
        full = self.n_layers + self.head
        return max(1 / full, (self._tokens + 1) / (self._cost + full))

    def verified(self, tokens: int, cost: float) -> None:
        """Count a verification.

        Args:
            tokens: how many became final.
            cost: layers that they took, drafts included.
        """
        self._tokens, self._cost = FADING * self._tokens + tokens, FADING * self._cost + cost

    def asked(self, exited: bool) -> None:
        """Count a step that asked a row's exits.

        Args:
            exited: it gave a draft.
        """
        self._exits = FADING * self._exits + (1 - FADING) * exited

    def asking_pays(self, chain: float) -> bool:
        """Whether a row is to be asked at its exits at all, which takes their heads.

        Args:
            chain: the chance that all its drafts stand.
        """
        return self._exits * (chain * self.tuner.share - self.rate * self.exits[0]) >= self.rate * self.ask

    def pays(self, chance: float, exit_index: int, asked: int) -> bool:
        """Whether a draft is worth its layers.

        Args:
            chance: that it and all drafts before it stand.
            exit_index: where it exits.
            asked: exits that computed logits for it.
        """
        return chance >= self.rate * (self.exits[exit_index] + asked * self.ask)


@dataclass
class Drafts:
    """The drafts of one row.

    Attributes:
        pace: of its model.
        able: whether the row may draft at all.
        tokens, depths: drafted since the newest verified token, and at which exits.
        asked: for each of them and the one in work, `(exit, bin, token)` of the exits asked.
        chain: the chance that all of them stand.
        cost: layers since the last verification.
        up: the row goes to the last layer in the present step.
        accepted: drafts of the whole answer that stood.
        plain: verified tokens since the last try.
    """

    pace: Pace
    able: bool = True
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    asked: list[list[tuple[int, int, int]]] = field(default_factory=list)
    chain: float = 1.0
    cost: float = 0.0
    up: bool = False
    accepted: int = 0
    plain: int = RETRY
    _chance: float = 1.0

    def begin(self, left: int) -> None:
        """Begin a step.

        Args:
            left: tokens that may still come after the drafts, 0 where they end the row.
        """
        pace = self.pace
        self.asked, self._chance = [*self.asked[: len(self.tokens)], []], 1.0
        self.up = not self.able or not pace.exits or left < 2 or len(self.tokens) >= LONGEST
        if not self.up and not pace.asking_pays(self.chain):
            self.up = bool(self.tokens) or self.plain < RETRY
            if not self.up:
                self.plain = 0

    def took(self, token: int, depth: int) -> None:
        """The step gave a draft."""
        self.tokens.append(token)
        self.depths.append(depth)
        self.chain *= self._chance
        self.cost += depth + len(self.asked[-1]) * self.pace.ask
        self.pace.asked(True)
        self.plain = 0

    def verified(self, verdicts: list[int]) -> None:
        """The step verified the row: learn from it, and begin anew.

        Args:
            verdicts: the last layer's tokens after the verified ones, up to the first that is no draft.
        """
        tuner = self.pace.tuner
        for j, token in enumerate(verdicts):
            tuner.verdict(self.asked[j], token)
            if j < len(self.tokens):
                tuner.judge(self.tokens[j] == token)
                self.accepted += self.tokens[j] == token
        cost = self.cost + self.pace.n_layers + self.pace.head + len(self.asked[-1]) * self.pace.ask
        self.pace.verified(len(verdicts), cost)
        self.plain += not self.tokens
        if self.asked[-1]:
            self.pace.asked(False)
        self.tokens, self.depths, self.asked, self.chain, self.cost = [], [], [], 1.0, 0.0

    def leaves(self, exit_index: int, probability: float, token: int) -> bool:
        """Whether the row exits with a draft; it is not asked again in this step where a higher exit would not pay either.

        Args:
            exit_index: where it is.
            probability: the largest there.
            token: whose it is.
        """
        pace, tuner = self.pace, self.pace.tuner
        asked = self.asked[-1]
        asked.append((exit_index, bin_of(probability), token))
        self._chance = tuner.chance(exit_index, probability)
        if pace.pays(self.chain * self._chance, exit_index, len(asked)):
            return True
        good, of = tuner.above[exit_index]
        above = exit_index + 1
        self.up = above >= len(pace.exits) or not pace.pays(self.chain * good / of, above, len(asked) + 1)
        return False


def go_up_together(rows: list[Drafts]) -> None:
    """Where one row is to be verified in this step, those with some drafts are, too: its layers run for all."""
    if any(row.up and row.able for row in rows):
        for row in rows:
            row.up = row.up or len(row.tokens) >= TOGETHER


class DraftPolicy:
    """The exit policy of exact rows: where they exit with a draft.

    Args:
        rows: of each its drafts, in the batch's order.
    """

    needs_history = False
    exits_early = True

    def __init__(self, rows: list[Drafts]) -> None:
        self.rows = rows

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        """`[r]` bool, see `decide`."""
        return self.decide(query).leave

    def decide(self, query: ExitQuery) -> ExitDecision:
        """Asks those that do not go up in this step."""
        leave = torch.zeros(len(query.rows), dtype=torch.bool)
        rows = [self.rows[r] for r in query.rows.tolist()]
        asked = [i for i, row in enumerate(rows) if not row.up]
        if not asked:
            return ExitDecision(leave.to(query.hidden.device))
        at = torch.tensor(asked, device=query.hidden.device)
        logits = query.logits if len(asked) == len(rows) else query.logits_at(at)
        best = logits.max(-1)
        probabilities = (best.values - logits.logsumexp(-1)).exp().tolist()
        for i, probability, token in zip(asked, probabilities, best.indices.tolist(), strict=True):
            leave[i] = rows[i].leaves(query.exit_index, probability, token)
        return ExitDecision(leave.to(query.hidden.device), at, logits)

    def keep(self, rows: list[int]) -> DraftPolicy:
        """This policy for some of its rows."""
        return DraftPolicy([self.rows[r] for r in rows])

    def join(self, other: ExitPolicy, n_rows: int, n_other: int) -> DraftPolicy:
        """This policy for its rows, `other` for those that follow them.

        Args:
            other: of the rows that join.
            n_rows: how many this one decides for.
            n_other: how many join.

        Raises:
            ValueError: `other` is of rows that are not exact.
        """
        if not isinstance(other, DraftPolicy):
            raise ValueError("exact rows draft under a policy of their own")
        return DraftPolicy([*self.rows, *other.rows])
