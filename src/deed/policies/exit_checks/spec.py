"""`DeedConfig.exit_check` as data: names, options, defaults and what does not go together. No models here."""

from __future__ import annotations

from typing import Any

from deed.errors import DeedConfigError

from ..measures import CONFIDENCES, needs_history

DEFAULTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "screen": {"rank": None, "refine": 32, "bound": False, "reuse": False, "first": "screen"},
    "shortlist": {"size": 64, "first": "exact", "rank": None},
    "gate": {},
}
# Options of former versions: the value that changed nothing, and what to do about another.
REMOVED = {
    "slack": (0.0, "leave it out: a row then leaves later, never sooner"),
    "confirm": (True, "leave it out: the exact head always has the last word"),
}


def parse_exit_check(spec: Any) -> tuple[str, dict[str, Any]]:
    """Name and all options of `"screen"` or `{"name": "screen", "rank": 128}`.

    `"shortlist"` is a screen with `reuse` and comes back as one.

    Raises:
        DeedConfigError: an unknown name or option, or a value out of range.
    """
    options = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in DEFAULTS:
        raise DeedConfigError(f"exit_check must be one of {', '.join(map(repr, DEFAULTS))}, got {spec!r}")
    if name == "screen":
        for key, (same, advice) in REMOVED.items():
            if key in options and options.pop(key) != same:
                raise DeedConfigError(f"exit_check 'screen': the option {key} is no more; {advice}")
    unknown = sorted(set(options) - set(DEFAULTS[name]))
    if unknown:
        takes = f"it takes {sorted(DEFAULTS[name])}" if DEFAULTS[name] else "it takes none"
        raise DeedConfigError(f"exit_check {name!r} does not take the options {unknown}; {takes}")
    options = {**DEFAULTS[name], **options}
    for key, least in (("rank", 1), ("size", 2), ("refine", 0)):
        value = options.get(key, least)
        if (key, value) != ("rank", None) and not (
            isinstance(value, int) and not isinstance(value, bool) and value >= least
        ):
            raise DeedConfigError(f"exit_check {name!r}: {key} must be an integer >= {least}, got {value!r}")
    for key in ("bound", "reuse"):
        if not isinstance(options.get(key, True), bool):
            raise DeedConfigError(f"exit_check {name!r}: {key} must be true or false, got {options[key]!r}")
    first = options.get("first", "screen")
    if first not in ("exact", "screen"):
        raise DeedConfigError(f'exit_check {name!r}: first must be "exact" or "screen", got {first!r}')
    if name == "shortlist":
        name, size = "screen", options.pop("size")
        options = {**options, "refine": size, "bound": False, "reuse": True}
    if first == "exact" and options["rank"] is not None:
        raise DeedConfigError('exit_check: rank is that of a screened first exit; set first="screen"')
    if options.get("bound") and (options["rank"] is not None or options["reuse"]):
        wrong = "rank" if options["rank"] is not None else "reuse"
        raise DeedConfigError(
            f'exit_check "screen": bound=True bounds the int8 copy of the whole head and leaves {wrong} at the default'
        )
    if name == "screen" and first == "exact" and not options["reuse"]:
        raise DeedConfigError(
            'exit_check "screen": first="exact" needs reuse=True, else every exit is the plain check'
        )
    if name == "screen" and options["reuse"] and options["refine"] < 2:
        raise DeedConfigError('exit_check "screen": reuse=True needs a refine of at least 2 tokens')
    return name, options


def check_with_draft_head(spec: Any) -> None:
    """Raises `DeedConfigError` for an exit check that looks at the model's own head, which a draft head replaces."""
    if parse_exit_check(spec)[0] == "screen":
        raise DeedConfigError(
            f"exit_check {spec!r} approximates the model's own head, which the exits of a model with a draft head do not ask; "
            'use "plain" or "gate", or set draft_head to None'
        )


def check_exit_check(spec: Any, confidence: Any) -> None:
    """Raises `DeedConfigError` for a bad `spec`, or one that cannot serve the measure `confidence`."""
    name, options = parse_exit_check(spec)
    measure = confidence.get("name") if isinstance(confidence, dict) else confidence
    if not isinstance(measure, str):
        measure = next((n for n, c in CONFIDENCES.items() if c is type(confidence)), type(confidence).__name__)
    if name == "screen" and (measure == "patience" or needs_history(confidence)):
        raise DeedConfigError(
            f"exit_check {spec!r} does not work with confidence {measure!r}, which needs every exit's token; "
            'use exit_check="plain"'
        )
    if options.get("bound") and measure not in ("max_prob", "margin"):
        raise DeedConfigError(
            f'exit_check "screen" with bound=True bounds confidence "max_prob" and "margin", not {measure!r}'
        )
