"""The exit check in configurations, options of `generate()` and saved curves: `exit_check`, or `asking` as it was called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deed.config import DeedConfig

NAMES = ("exit_check", "asking")
FIELD = next(name for name in NAMES if name in DeedConfig.__dataclass_fields__)


def own_exit_check(config: Any) -> Any:
    """The exit check of a configuration: a name, or a dict with name and options."""
    return getattr(config, FIELD)


def check_name(spec: str | Mapping[str, Any]) -> str:
    """`"screen"` of `"screen"` and of `{"name": "screen", "rank": 64}`."""
    return spec if isinstance(spec, str) else spec["name"]


def set_exit_check(config: Any, spec: Any) -> None:
    """Set it; None leaves it as it is."""
    if spec is not None:
        setattr(config, FIELD, spec)
        config.validate()


def take_exit_check(options: Mapping[str, Any]) -> Any:
    """That among options of `generate()` or in a point of a curve, under either name; None if there is none."""
    return next((options[name] for name in NAMES if options.get(name) is not None), None)


def plain_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that JSON can hold, for the record."""
    return {k: v for k, v in options.items() if isinstance(v, (bool, int, float, str))}
