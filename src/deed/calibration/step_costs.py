"""What a decoding step costs on this machine, in units of a decoder layer: what `threshold_search` weighs exits by."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from deed.constants import GREEDY
from deed.policies.policy import FixedSchedule
from deed.utils.timing import now, timed_encoder

from .teacher_forcing import evaluating

EARLIER_NAMES = {"ask": "exit_check", "first": "first_use", "width": "extra_position"}
SEARCH: dict[str, Any] = {**GREEDY, "num_return_sequences": 1}


@dataclass(frozen=True)
class Costs:
    """What a decoding step costs, in units of one decoder layer on one position.

    Attributes:
        exit_check: one exit's adaptation module, head (the draft head, where exits have one), measure and decision.
        fixed: the rest of a step, whatever the depth.
        first_use: a layer's first use in an answer (its cross-attention keys and values).
        extra_position: what each further position of a block costs of a layer.
        layer: the unit; another value than 1 divides the other costs but `extra_position`.
        layer_ms: a layer's time, for reports; None where nothing was timed.
        exit_layer: the layer that every exit but the last has of its own (`adapter="layer"`), run where it is checked or left
            by; 0 where exits have none.
        last_check: the last exit's head, where the others have a draft head; None: it costs an `exit_check`, too.
    """

    exit_check: float
    fixed: float = 0.0
    first_use: float = 0.0
    extra_position: float = 0.14
    layer: float = 1.0
    layer_ms: float | None = None
    exit_layer: float = 0.0
    last_check: float | None = None

    def __post_init__(self) -> None:
        for name in ("exit_check", "fixed", "first_use", "extra_position", "layer", "exit_layer", "last_check"):
            if not (getattr(self, name) is None or getattr(self, name) >= 0):
                raise ValueError(f"costs: {name} must be a number of at least 0, got {getattr(self, name)!r}")
        if self.layer != 1:  # {"layer": 2.0, "exit_check": 5.0}, in ms, is {"layer": 1, "exit_check": 2.5}
            if self.layer == 0:
                raise ValueError("costs: layer is the unit, it cannot be 0")
            for name in ("exit_check", "fixed", "first_use", "exit_layer", "last_check"):
                if getattr(self, name) is not None:
                    object.__setattr__(self, name, getattr(self, name) / self.layer)
            object.__setattr__(self, "layer", 1.0)

    @property
    def at_last(self) -> float:
        """What the last exit's head costs."""
        return self.exit_check if self.last_check is None else self.last_check

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Costs:
        """The inverse of `dataclasses.asdict`; reads curves that were saved with earlier names, too."""
        return cls(**{EARLIER_NAMES.get(name, name): value for name, value in values.items()})


@torch.no_grad()
def measure_costs(
    model: Any,
    inputs: Mapping[str, torch.Tensor] | None = None,
    *,
    steps: int = 32,
    repeats: int = 5,
    **generate_kwargs: Any,
) -> Costs:
    """Time a layer, an exit check, a wide block and the rest of a step on this machine, by `generate()` at forced depths.

    Five schedules in turns, warm, medians: all tokens at the first exit; all at the last, without and with every exit
    checked on the way; seven at the first and then one at the last (a catch-up block of 8); the first two also a quarter as
    long, so that what an answer pays once is told apart from what a step does. A layer that exits have of their own is one of
    the decoder's build, so it counts as much. With a draft head all this is timed by the model's own head, and a sixth
    schedule asks every exit's draft head.

    Args:
        model: a deed model with an exit before the last.
        inputs: encoder inputs of one row; default: 64 tokens, all the same.
        steps: tokens generated, a multiple of 8.
        repeats: timed rounds.
        generate_kwargs: passed to `generate()`, say an exit check.

    Raises:
        ValueError: no exit before the last; `steps` no multiple of 8 or less than 16; exits with layers of their own of which
            the first is right below the last layer, where it saves none.

    Example:
        ```python
        costs = deed.measure_costs(model, steps=16, repeats=1)  # seconds on this machine
        ```
    """
    exits = model.deed_config.exit_layers
    if len(exits) < 2:
        raise ValueError("there is nothing to check: the model has no exit before the last layer")
    if steps < 16 or steps % 8:
        raise ValueError(f"steps must be a multiple of 8 and at least 16, got {steps}")
    own = int(model.deed_config.adapter == "layer")  # layers that a token runs at an exit, beside the decoder's
    if exits[-1] - exits[0] <= own:
        raise ValueError(
            f"an exit with a layer of its own at depth {exits[0]} of {exits[-1]} saves no layer: choose exit_layers further "
            "below the last"
        )
    if inputs is None:
        inputs = {"input_ids": torch.full((1, 64), 3, device=model.device)}
    first, last, short = exits[0], exits[-1], max(8, steps // 4 // 8 * 8)
    runs: dict[str, tuple[list[int], bool, int]] = {
        "first": ([first], False, steps),
        "last": ([last], False, steps),
        "checked": ([last], True, steps),
        "late": ([first] * 7 + [last], False, steps),
        "first short": ([first], False, short),
        "last short": ([last], False, short),
    }
    draft_head = model.deed_config.draft_head
    if draft_head is not None:
        runs["drafted"] = ([last], True, steps)
    times: dict[str, list[float]] = {name: [] for name in runs}
    with evaluating(model), timed_encoder(model) as clock, _restored(model.deed_config):
        for turn in range(repeats + 1):
            for name, (depths, checked, length) in runs.items():
                clock.take()
                start = now(model.device)
                model.deed_config.draft_head = draft_head if name == "drafted" else None
                options = {**SEARCH, **_exactly(model, length), **generate_kwargs}
                model.generate(**inputs, **options, exit_policy=FixedSchedule(depths, ask=checked))
                if turn:  # the first round warms up
                    times[name].append(1e3 * (now(model.device) - start - clock.take()))
    ms = {name: statistics.median(values) for name, values in times.items()}
    step_first, step_last = ((ms[n] - ms[f"{n} short"]) / (steps - short) for n in ("first", "last"))
    saved = last - first - own
    layer = max((step_last - step_first) / saved, 1e-6)
    once = ((ms["last"] - steps * step_last) - (ms["first"] - steps * step_first)) / saved

    def check_in(run: str) -> float:
        return max(0.0, (ms[run] - ms["last"]) / steps / (len(exits) - 1) - own * (layer + once / steps))

    check = check_in("checked")
    # Of eight steps in "late", one runs the layers past the first exit, on a block of eight, instead of the exit's own.
    more = ms["late"] - ms["first"] - once * (last - first) + steps // 8 * own * layer
    block = more / (steps // 8) / (last - first) / layer
    return Costs(
        exit_check=(check if draft_head is None else check_in("drafted")) / layer,
        fixed=max(0.0, step_first / layer - first - own - check / layer),
        first_use=max(0.0, once / layer),
        extra_position=min(1.0, max(0.0, (block - 1) / 7)),
        layer_ms=layer,
        exit_layer=float(own),
        last_check=None if draft_head is None else check / layer,
    )


@contextmanager
def _restored(config: Any) -> Iterator[None]:
    """Put the draft head back whatever happens."""
    draft_head = config.draft_head
    try:
        yield
    finally:
        config.draft_head = draft_head


def _exactly(model: Any, tokens: int) -> dict[str, int]:
    """Options for so many new tokens after one to start with, in the terms that the model's own settings use."""
    if model.generation_config.max_new_tokens is not None:
        return {"max_new_tokens": tokens, "min_new_tokens": tokens}
    return {"max_length": 1 + tokens, "min_length": 1 + tokens}
