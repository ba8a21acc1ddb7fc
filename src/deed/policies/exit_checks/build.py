"""From the name of an exit check to a policy that uses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..measures import StateSimilarity
from ..policy import ExitPolicy, FixedSchedule, ThresholdPolicy
from .gate import Gate
from .screen import Screen
from .spec import check_exit_check, parse_exit_check
from .two_stage import TwoStagePolicy


def build_exit_check(spec: str | dict[str, Any], model: Any) -> Screen | Gate | None:
    """The approximate head (or gate) that `spec` names, on `model`; None for `"plain"`. Copies of the head are made once.

    Raises:
        DeedConfigError: a bad specification, or one that this model cannot serve.
    """
    name, options = parse_exit_check(spec)
    kinds: dict[str, Any] = {"screen": Screen, "gate": Gate}
    return kinds[name](model, **options) if name in kinds else None


def with_exit_check(policy: ExitPolicy, spec: str | dict[str, Any], model: Any) -> ExitPolicy:
    """`policy`, with exits checked the way `spec` says.

    Thresholds and schedules are wrapped. Left as they are: what never leaves early, measures that need no head
    (state similarity), and policies of other classes, which may not be fit to be asked twice: wrap those yourself,
    `TwoStagePolicy(policy, build_exit_check(spec, model))`.

    Args:
        policy: decides which rows exit.
        spec: `DeedConfig.exit_check`.
        model: a deed model.

    Raises:
        DeedConfigError: a bad specification, or one that does not go with the policy's measure.
    """
    if spec == "plain" or not policy.exits_early or not isinstance(policy, (ThresholdPolicy, FixedSchedule)):
        parse_exit_check(spec)
        return policy
    check = build_exit_check(spec, model)
    if isinstance(check, Gate):
        if isinstance(policy, ThresholdPolicy):
            return replace(policy, confidence=check)
        return replace(policy, measure=check)
    measure = policy.confidence if isinstance(policy, ThresholdPolicy) else policy.measure
    check_exit_check(spec, measure)
    if check is None or isinstance(measure, StateSimilarity):
        return policy
    return TwoStagePolicy(policy, check)
