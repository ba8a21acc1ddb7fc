"""`DeedConfig.asking` as data: names, options, defaults and what does not go together. No models here."""

from __future__ import annotations

from typing import Any

from deed.errors import DeedConfigError

from ..measures import CONFIDENCES

DEFAULTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "screen": {"rank": None, "refine": 32, "slack": 0.0, "bound": False, "confirm": True},
    "shortlist": {"size": 64, "first": "exact", "rank": None},
    "gate": {},
}


def parse_asking(spec: Any) -> tuple[str, dict[str, Any]]:
    """Name and all options of `"screen"` or `{"name": "screen", "rank": 128}`.

    Raises:
        DeedConfigError: an unknown name or option, or a value out of range.
    """
    options = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in DEFAULTS:
        raise DeedConfigError(f"asking must be one of {', '.join(map(repr, DEFAULTS))}, got {spec!r}")
    unknown = sorted(set(options) - set(DEFAULTS[name]))
    if unknown:
        takes = f"it takes {sorted(DEFAULTS[name])}" if DEFAULTS[name] else "it takes none"
        raise DeedConfigError(f"asking {name!r} does not take the options {unknown}; {takes}")
    options = {**DEFAULTS[name], **options}
    for key, least in (("rank", 1), ("size", 2), ("refine", 0)):
        value = options.get(key, least)
        if not (isinstance(value, int) and not isinstance(value, bool) and value >= least) and (key, value) != (
            "rank",
            None,
        ):
            raise DeedConfigError(f"asking {name!r}: {key} must be an integer >= {least}, got {value!r}")
    for key in ("bound", "confirm"):
        if not isinstance(options.get(key, True), bool):
            raise DeedConfigError(f"asking {name!r}: {key} must be true or false, got {options[key]!r}")
    slack = options.get("slack", 0.0)
    if isinstance(slack, bool) or not isinstance(slack, (int, float)) or not 0 <= slack <= 1:
        raise DeedConfigError(f"asking {name!r}: slack must be a number in [0, 1], got {slack!r}")
    if options.get("first", "exact") not in ("exact", "screen"):
        raise DeedConfigError(f'asking "shortlist": first must be "exact" or "screen", got {options["first"]!r}')
    if options.get("first") == "exact" and options["rank"] is not None:
        raise DeedConfigError('asking "shortlist": rank is that of a screened first look; set first="screen"')
    if options.get("bound"):
        wrong = [k for k, bad in (("rank", options["rank"] is not None), ("slack", slack > 0)) if bad]
        wrong += [] if options["confirm"] else ["confirm"]
        if wrong:
            raise DeedConfigError(
                f'asking "screen": bound=True bounds the int8 copy of the whole head and leaves {" and ".join(wrong)} '
                "at the default"
            )
    return name, options


def check_asking(spec: Any, confidence: Any) -> None:
    """Raises `DeedConfigError` for a bad `spec`, or one that cannot serve the measure `confidence`."""
    name, options = parse_asking(spec)
    measure = confidence.get("name") if isinstance(confidence, dict) else confidence
    if not isinstance(measure, str):
        measure = next((n for n, c in CONFIDENCES.items() if c is type(confidence)), type(confidence).__name__)
    if name in ("screen", "shortlist") and (measure == "patience" or getattr(confidence, "remembers", False)):
        raise DeedConfigError(
            f"asking {name!r} does not work with confidence {measure!r}, which needs every exit's token; "
            'use asking="plain"'
        )
    if options.get("bound") and measure not in ("max_prob", "margin"):
        raise DeedConfigError(
            f'asking "screen" with bound=True bounds confidence "max_prob" and "margin", not {measure!r}'
        )
