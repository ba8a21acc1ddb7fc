"""The exit check among options of `generate()` and in saved curves: `exit_check`, or its former name `asking`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deed.policies.exit_checks.spec import parse_exit_check


def check_name(spec: str | Mapping[str, Any]) -> str:
    """`"screen"` of `"screen"` and of `{"name": "screen", "rank": 64}`."""
    return spec if isinstance(spec, str) else spec["name"]


def has_own_confidence(spec: str | Mapping[str, Any]) -> bool:
    """Whether it decides by another confidence than the exact head's, which a teacher-forced pass does not show: a gate,
    or a shortlist. A screen passes only what the exact head then confirms."""
    name, options = parse_exit_check(spec)
    return name == "gate" or bool(options.get("reuse"))


def set_exit_check(config: Any, spec: Any) -> None:
    """Set it; None leaves it as it is."""
    if spec is not None:
        config.exit_check = spec
        config.validate()


def take_exit_check(options: Mapping[str, Any]) -> Any:
    """That among options of `generate()` or in a point of a curve, under either name; None if there is none."""
    return next((options[name] for name in ("exit_check", "asking") if options.get(name) is not None), None)


def plain_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that JSON can hold, for the record."""
    return {k: v for k, v in options.items() if isinstance(v, (bool, int, float, str))}
