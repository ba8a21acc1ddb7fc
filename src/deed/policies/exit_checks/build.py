"""From the name of an exit check to a policy that uses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..measures import StateSimilarity
from ..policy import ExitPolicy, FixedSchedule, ThresholdPolicy
from .gate import Gate
from .screen import Screen
from .shortlist import Shortlist
from .spec import check_asking, parse_asking
from .two_stage import AskedPolicy


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
