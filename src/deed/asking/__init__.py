"""Cheap asking: what it takes to learn whether an exit is sure enough, when the whole head costs as much as layers do.

`DeedConfig.asking` (or `generate(asking=…)`) names a way to ask:

- `"plain"`: the exit's exact head over the whole vocabulary. The default, and right where the vocabulary is small: below a
  few thousand tokens the head costs less than the steps that would avoid it.
- `{"name": "screen"}`: a first look through an int8 or low-rank copy of the head. See `Screen`.
- `{"name": "shortlist"}`: later exits look only at the best tokens of the first. See `Shortlist`.
- `{"name": "gate"}`: a learned gate per exit. See `Gate` and `fit_gate`.

Each says whether its tokens and depths equal plain asking's (`equals_plain`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..confidence import ExitPolicy, FixedSchedule, StateSimilarity, ThresholdPolicy
from .fit import fit_screen
from .gate import Gate, fit_gate
from .policy import AskedPolicy, Look
from .screen import Screen
from .shortlist import Shortlist
from .spec import check_asking, parse_asking

__all__ = [
    "AskedPolicy",
    "Gate",
    "Look",
    "Screen",
    "Shortlist",
    "asked",
    "build_asking",
    "check_asking",
    "fit_gate",
    "fit_screen",
    "parse_asking",
]


def build_asking(spec: str | dict[str, Any], model: Any) -> Screen | Shortlist | Gate | None:
    """The look (or gate) that `spec` names, on `model`; None for `"plain"`. What it copies of the head is built once.

    Raises:
        DeedConfigError: a bad specification, or one that this model cannot serve.
    """
    name, options = parse_asking(spec)
    kinds: dict[str, Any] = {"screen": Screen, "shortlist": Shortlist, "gate": Gate}
    return kinds[name](model, **options) if name in kinds else None


def asked(policy: ExitPolicy, spec: str | dict[str, Any], model: Any) -> ExitPolicy:
    """`policy`, asked the way `spec` says.

    Thresholds and schedules are wrapped. Left as they are: what never leaves early, measures that need no head
    (state similarity), and policies of other classes, which may not be fit to be asked twice: wrap those yourself,
    `AskedPolicy(policy, build_asking(spec, model))`.

    Raises:
        DeedConfigError: a bad specification, or one that does not go with the policy's measure.
    """
    if spec == "plain" or not policy.exits_early or not isinstance(policy, (ThresholdPolicy, FixedSchedule)):
        parse_asking(spec)
        return policy
    look = build_asking(spec, model)
    if isinstance(look, Gate):
        if isinstance(policy, ThresholdPolicy):
            return replace(policy, confidence=look)
        return replace(policy, measure=look)
    measure = policy.confidence if isinstance(policy, ThresholdPolicy) else policy.measure
    check_asking(spec, measure)
    if look is None or isinstance(measure, StateSimilarity):
        return policy
    return AskedPolicy(policy, look)
