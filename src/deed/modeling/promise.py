"""Warns where a calibrated threshold is used with other settings than those that `deed.calibrate` chose it with."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary

# By model, the settings that it has been warned of. Not on the model: copies warn anew, and `unwrap` has nothing to clear.
_warned_of: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def warn_of_broken_promise(model: Any, exit_check: Any, confidence_over: str) -> None:
    """Warn, once for each set of settings, where the calibrated threshold is used with others than it was chosen with.

    Args:
        model: a deed model, whose own threshold is about to be used.
        exit_check: of this generation, as `generate()` takes it.
        confidence_over: of this generation.

    Warns:
        UserWarning: naming what differs; to the caller of the function that calls this one.
    """
    config = model.deed_config
    report = config.calibration
    if not report or report.get("threshold") != config.threshold or not exits_early(config.threshold):
        return
    now = {"measure": config.confidence, "confidence_over": confidence_over, "exit_check": exit_check}
    then = {"exit_check": report.get("asking"), **report}  # its former name
    others: dict[str, Any] = {
        name: value
        for name, value in now.items()
        if then.get(name) is not None and _with_name(then[name]) != _with_name(value)
    }
    if report.get("draft_head") != config.draft_head:
        then.setdefault("draft_head", None)
        others["draft_head"] = config.draft_head
    warned = _warned_of.setdefault(model, set())
    if not others or repr(others) in warned:
        return
    warned.add(repr(others))
    said = ", ".join(f"{name}={then[name]!r}, not for {value!r}" for name, value in others.items())
    warnings.warn(
        f"the calibrated threshold {config.threshold} is used with other settings than it was chosen with, and what "
        f"deed.calibrate promised does not hold: it is for {said}; calibrate again, or pass an exit_threshold",
        stacklevel=3,
    )


def exits_early(threshold: Any) -> bool:
    """Whether a threshold (or one of several) lets anything leave early."""
    return min(threshold if isinstance(threshold, (list, tuple)) else [threshold]) <= 1


def _with_name(spec: Any) -> Any:
    """A measure or an exit check in its long form."""
    return {"name": spec} if isinstance(spec, str) else spec
