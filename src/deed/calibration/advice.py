"""One sentence on what to do, from an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .estimate import Estimate, Prediction

WORTH = (
    1.1  # times faster, for the whole answer and at the lower end of the interval, that early exit is worth its while
)
HOPE = 1.2  # that a perfect gate has to give the whole answer for training to be worth a try
CHANGED = 0.02  # share of tokens that may change for "as it is"


def advice(found: Estimate) -> str:
    """What to do: leave early as it is, with exits fitted or trained, in exact mode, or not at all.

    Args:
        found: the estimate.
    """
    share, free = found.encoder_share, 1 / max(found.encoder_share, 1e-9)
    early = [p for p in found.predictions if p.mode == "early" and p.changed <= CHANGED]
    own = _best([p for p in early if p.exits == "own"])
    if own is not None and own.answer[0] >= WORTH:
        return (
            f"Worth it as it is: answers {_range(own.answer)} times faster with {own.changed:.1%} of the tokens changed; "
            "choose the threshold with deed.calibrate."
        )
    if free < HOPE:
        return (
            f"Do not bother: the encoder takes {share:.0%} of an answer's time, so even a decoder that cost nothing would "
            f"give {free:.2f} times."
        )
    exact = _best([p for p in found.predictions if p.mode == "exact" and p.exits == "own"])
    if exact is not None and exact.answer[0] >= WORTH:
        return (
            f"Use the exact mode (generate(exact=True)): the same tokens, answers {_range(exact.answer)} times faster; "
            "training the exits would give more."
        )
    fitted = _best([p for p in found.predictions if p.exits == "fitted" and p.changed <= CHANGED])
    if fitted is not None and fitted.answer[0] >= WORTH:
        how = "in exact mode" if fitted.mode == "exact" else f"with {fitted.changed:.1%} of the tokens changed"
        return (
            f"Train the exits: fitted in closed form they already give answers {_range(fitted.answer)} times faster {how}; as "
            "they are, they do not pay."
        )
    gate = max(found.perfect_gate.values())
    whole = 1 / (share + (1 - share) / gate)
    if whole >= HOPE:
        return (
            f"Training may pay: nothing does yet, but a perfect gate on these exits would give {whole:.2f} times, and trained "
            "exits agree more often than fitted ones."
        )
    return (
        f"Do not bother: even a perfect gate on fitted exits would give {whole:.2f} times; these layers come to their answers "
        "at the end only."
    )


def _best(predictions: list[Prediction]) -> Prediction | None:
    return max(predictions, key=lambda p: p.answer[1], default=None)


def _range(values: list[float]) -> str:
    return f"{values[1]:.2f} ({values[0]:.2f} to {values[2]:.2f})"
