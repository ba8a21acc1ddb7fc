"""`DeedConfig`: everything early exit adds to a model's configuration, checked once and saved in `config.json`."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import Any

from deed.errors import DeedConfigError

ADAPTERS = ("residual_linear", "linear", "bottleneck", "layer", "none")
LOSSES = ("deed", "mean", "last", "rising", "distill")
CONFIDENCE_OVER = ("all", "allowed")


@dataclass
class DeedConfig:
    """How a decoder leaves early.

    Args:
        exit_layers (`list[int]`, *optional*): 1-based decoder depths that are exits. `None`: every layer. The last
            layer is always added. After `get_deed_model`, `model.deed_config.exit_layers` is the resolved list.
        adapter (`str`): adaptation module of every exit but the last: `"residual_linear"` (h + Wh + b, starts as the
            identity), `"linear"`, `"bottleneck"` (residual, down-GELU-up), `"layer"` (a whole decoder layer, started as
            the base model's last one; docs/method.md) or `"none"`. The paper does not publish its module; these are ours.
        adapter_dim (`int`): inner width of `"bottleneck"`.
        adapter_shared (`bool`): with `"layer"`, one layer for all exits: a file as small as that of one exit.
        confidence (`str` or `dict`): measure taken at an exit: `"max_prob"`, `"margin"`, `"entropy"`,
            `"state_similarity"`, `"patience"`; with options as `{"name": "patience", "patience": 3}`; for tokens on a
            scale `{"name": "ordered_prob", "first": 4, "count": 1000}`.
        confidence_over (`str`): `"all"` measures on the raw logits; `"allowed"` only over the tokens that constraints
            (`prefix_allowed_tokens_fn`, bad words, forced tokens …) leave open.
        threshold (`float` or `list[float]`): a row leaves when confidence >= threshold; > 1 never exits early. A list
            gives one value per exit but the last (the last always answers).
        threshold_decay (`dict`, *optional*): `{"temperature": t, "length": n}` loosens the threshold with position,
            0.9 * threshold + 0.1 * exp(-t * position / n) (CALM, Schuster et al. 2022, eq. 5). Values > 1 stay put.
        exit_check (`str` or `dict`): how an exit's confidence is found out (`deed.policies.exit_checks`). `"plain"`: by the
            model's own head over the whole vocabulary, right where the vocabulary is small. `"screen"`, `"shortlist"` and
            `"gate"` compute less first; options as `{"name": "screen", "rank": 128}`. Calibrate with the one that will be
            used. Its former name `asking` is read everywhere, too.
        draft_head (`dict`, *optional*): a head of their own for all exits but the last, for large vocabularies
            (docs/method.md): `{"rank": 32, "refine": 32}`, or `{"tokens": 4096}`, a number of tokens or their ids. The logits
            of these exits then are its; losses are still taken by the model's own head. It may cost half a decoder layer, more
            where `max_layers` in it says so. `deed.fit_draft_head` fits it, and again after a training.
        loss (`str`): `"deed"` is L_avg + L_N (the paper's), `"mean"` L_avg alone, `"last"` L_N alone (a conventional
            training, for comparison), `"rising"` L_N and the exits weighted by their number, so that the first ones shape
            the shared layers less, `"distill"` self-distillation: every other exit matches the last exit's
            probabilities (for a frozen backbone, see `DeedMixin.freeze_backbone`).
        calibration (`dict`, *optional*): the report of `deed.calibrate`, kept with the model.
        curve (`dict`, *optional*): the score-latency curve of `deed.record_curve`, which `deed.set_target` reads.
        answer_calibration (`dict`, *optional*): how likely answers are to be right, of `deed.calibrate_answers`.

    Example:
        ```python
        config = deed.DeedConfig(exit_layers=[2, 4], confidence="margin", threshold=[0.8, 0.6])
        assert deed.DeedConfig.from_dict(config.to_dict()) == config
        ```
    """

    exit_layers: list[int] | None = None
    adapter: str = "residual_linear"
    adapter_dim: int = 64
    adapter_shared: bool = False
    confidence: str | dict[str, Any] = "max_prob"
    confidence_over: str = "all"
    threshold: float | list[float] = 0.9
    exit_check: str | dict[str, Any] = "plain"
    draft_head: dict[str, Any] | None = None
    threshold_decay: dict[str, float] | None = None
    loss: str = "deed"
    calibration: dict[str, Any] | None = field(default=None, repr=False)
    curve: dict[str, Any] | None = field(default=None, repr=False)
    answer_calibration: dict[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises `DeedConfigError` naming the first bad field."""
        # Here, because these raise DeedConfigError.
        from deed.exits.draft_spec import parse_draft_head
        from deed.policies.exit_checks.spec import check_exit_check, check_with_draft_head
        from deed.policies.measures import build_confidence

        if self.exit_layers is not None:
            ok = isinstance(self.exit_layers, (list, tuple)) and all(_is_int(x) for x in self.exit_layers)
            if not ok or not self.exit_layers or min(self.exit_layers) < 1:
                raise DeedConfigError(
                    f"exit_layers must be None or a non-empty list of depths >= 1, got {self.exit_layers!r}"
                )
            self.exit_layers = sorted({int(x) for x in self.exit_layers})
        _one_of("adapter", self.adapter, ADAPTERS)
        if not isinstance(self.adapter_shared, bool) or (self.adapter_shared and self.adapter != "layer"):
            raise DeedConfigError(
                f'adapter_shared is true or false, and true for adapter="layer" only; got {self.adapter_shared!r} with '
                f"{self.adapter!r}"
            )
        if not _is_int(self.adapter_dim) or self.adapter_dim < 1:
            raise DeedConfigError(f"adapter_dim must be a positive integer, got {self.adapter_dim!r}")
        build_confidence(self.confidence)
        _one_of("confidence_over", self.confidence_over, CONFIDENCE_OVER)
        values = self.threshold if isinstance(self.threshold, (list, tuple)) else [self.threshold]
        if not values or not all(_is_number(v) and v >= 0 for v in values):
            raise DeedConfigError(
                "threshold must be a number of at least 0 (above 1 never exits early) or a list of one per exit, got "
                f"{self.threshold!r}"
            )
        if self.threshold_decay is not None:
            keys = set(self.threshold_decay) if isinstance(self.threshold_decay, dict) else set()
            if keys != {"temperature", "length"} or not all(_is_number(v) for v in self.threshold_decay.values()):
                raise DeedConfigError(
                    f'threshold_decay must be None or {{"temperature": t, "length": n}}, got {self.threshold_decay!r}'
                )
            if self.threshold_decay["length"] <= 0 or self.threshold_decay["temperature"] < 0:
                raise DeedConfigError("threshold_decay needs length > 0 and temperature >= 0")
        check_exit_check(self.exit_check, self.confidence)
        if self.draft_head is not None:
            parse_draft_head(self.draft_head)
            check_with_draft_head(self.exit_check)
        _one_of("loss", self.loss, LOSSES)

    def resolve(self, n_layers: int) -> DeedConfig:
        """A copy for a decoder of `n_layers`: `exit_layers` listed, the last layer among them.

        Raises:
            DeedConfigError: an exit deeper than the decoder, or a threshold list of the wrong length.
        """
        layers = list(range(1, n_layers + 1)) if self.exit_layers is None else sorted({*self.exit_layers, n_layers})
        if layers[-1] > n_layers:
            raise DeedConfigError(f"exit_layers asks for depth {layers[-1]}, but the decoder has {n_layers} layers")
        if isinstance(self.threshold, (list, tuple)) and len(self.threshold) not in (len(layers) - 1, len(layers)):
            raise DeedConfigError(
                f"threshold has {len(self.threshold)} values, but there are {len(layers) - 1} exits before the last"
            )
        if self.loss == "distill" and (len(layers) < 2 or self.adapter == "none"):
            raise DeedConfigError(
                'loss="distill" needs an exit before the last and an adapter other than "none" to train'
            )
        return dataclasses.replace(self, exit_layers=layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what is None."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DeedConfig:
        """The inverse of `to_dict`.

        Raises:
            DeedConfigError: not a mapping, or a key this version does not know.
        """
        if not isinstance(values, dict):
            raise DeedConfigError(f"deed_config must be a mapping, got {type(values).__name__}")
        if "asking" in values:  # the name of former versions
            values = {"exit_check": values["asking"], **{k: v for k, v in values.items() if k != "asking"}}
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise DeedConfigError(f"deed_config has unknown fields {unknown}; this version knows {sorted(known)}")
        return cls(**values)


def _accept_asking() -> None:
    """Have `DeedConfig` take and show `exit_check` under its former name, too."""
    init = DeedConfig.__init__

    @functools.wraps(init)
    def wrapped(self: DeedConfig, *args: Any, **kwargs: Any) -> None:
        if "asking" in kwargs:
            if "exit_check" in kwargs:
                raise DeedConfigError("asking is the former name of exit_check; give one of the two")
            kwargs["exit_check"] = kwargs.pop("asking")
        init(self, *args, **kwargs)

    def read(self: DeedConfig) -> Any:
        return self.exit_check

    def write(self: DeedConfig, value: Any) -> None:
        self.exit_check = value

    DeedConfig.__init__ = wrapped  # type: ignore[method-assign]
    DeedConfig.asking = property(read, write, doc="The former name of `exit_check`.")  # type: ignore[attr-defined]


_accept_asking()


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DeedConfigError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # an integer beyond any float
        return False
