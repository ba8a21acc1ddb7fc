"""From the name of an exit check to a policy that uses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deed.errors import DeedConfigError
from deed.families.parts import plain
from deed.kernels.int8 import IntMM, kernel

from ..measures import Margin, MaxProb, StateSimilarity
from ..policy import ExitPolicy, FixedSchedule, ThresholdPolicy
from .gate import Gate
from .int8_copy import LARGE, has_int8
from .screen import Screen
from .spec import check_exit_check, check_with_draft_head, parse_exit_check
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

    Thresholds and schedules are wrapped. "plain" on a large float32 head on the CPU, under a measure whose bounds are known,
    goes by a screen with `bound`: the same decisions, and the head itself only for rows that may leave.

    Left as they are: what never leaves early, measures that need no head (state similarity), and policies of other classes,
    which may not be fit to be asked twice: wrap those yourself, `TwoStagePolicy(policy, build_exit_check(spec, model))`.

    Args:
        policy: decides which rows exit.
        spec: `DeedConfig.exit_check`.
        model: a deed model.

    Raises:
        DeedConfigError: a bad specification, or one that does not go with the policy's measure.
    """
    drafts = model.deed_config.draft_head is not None
    if drafts:
        check_with_draft_head(spec)
    if not policy.exits_early or not isinstance(policy, (ThresholdPolicy, FixedSchedule)):
        parse_exit_check(spec)
        return policy
    if parse_exit_check(spec)[0] == "plain":
        measure = policy.confidence if isinstance(policy, ThresholdPolicy) else policy.measure if policy.ask else None
        if drafts or type(measure) not in (MaxProb, Margin) or not _reads_less_by_a_copy(model):
            return policy
        return TwoStagePolicy(policy, Screen(model, bound=True))
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


def _reads_less_by_a_copy(model: Any) -> bool:
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or not plain([head]) or head.weight.dtype != torch.float32:
        return False
    if head.weight.numel() < LARGE or not has_int8(head.weight.device) or kernel()[0] is IntMM:
        return False
    if torch.get_float32_matmul_precision() != "highest":  # then the head's own product rounds further than the bound
        return False
    try:
        return model.deed_family.head_parts(model)[0] is head.weight
    except (NotImplementedError, DeedConfigError):
        return False
