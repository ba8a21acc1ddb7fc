"""How likely an answer is to be right: the calibrated model that `deed.calibrate_answers` fits, as plain numbers, and its use.

A logistic regression on the features of an answer (`answer_watch.py`) and the distance of its source from the sources that
were answered rightly (where it helps, also on squares and on products with what is known of the source, so that the same
probability may mean more on a familiar page); and a map on top of it, after which "0.8" means four of five. It is kept in
`deed_config.answer_calibration`, saved in `config.json` with the rest, and needs nothing but PyTorch to be used. It holds
for the exits, measure and threshold that it was fitted with, and refuses others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from deed.config import DeedConfig
from deed.engine.cache import StaircaseCache
from deed.errors import DeedConfigError

from .answer_watch import FEATURES, AnswerWatch, source_states
from .outputs import DeedGenerateOutput

VERSION = 1
DISTANCE = "source_distance"  # the feature that is not one of the generation's own
NAMES = (*FEATURES, DISTANCE)
FACTORS = ("log_source", DISTANCE)  # features that every feature is also multiplied by
CLIP = 3.0  # standard deviations of the calibration set within which a feature counts
NEVER_SURE = 2.0  # `abstain_below` where no confidence keeps the promise: no answer reaches it


@dataclass
class AnswerConfidence:
    """The stored model.

    Attributes:
        features: names of the features used, of `NAMES`.
        center, scale: of each feature, its mean and standard deviation on the calibration set.
        weights, bias: of the regression on the `terms` of the standardized features.
        products: whether those are more than the features themselves.
        map: `[a, b, c]`: a score s becomes `sigmoid(a log s - b log(1 - s) + c)`, a, b >= 0 (beta calibration, Kull et al.
            2017).
        source_mean, source_variance: `[d_model]`, of the mean encoder state of sources that were answered rightly.
        abstain_below: an answer is sure from this confidence on; `NEVER_SURE` where no value keeps the promise.
        risk, confidence: the promise: with probability `confidence` at most the share `risk` of the sure answers is wrong.
        settings: what it holds for, see `exit_settings`.
        report: what calibration found.
        version: of this form.
    """

    features: list[str]
    center: list[float]
    scale: list[float]
    weights: list[float]
    bias: float
    map: list[float]
    source_mean: list[float]
    source_variance: list[float]
    abstain_below: float = NEVER_SURE
    risk: float = 0.1
    confidence: float = 0.95
    products: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def __call__(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Confidence `[rows]` float64 of answers.

        Args:
            features: `[rows, len(FEATURES)]`, of `AnswerWatch.features`.
            states: `[rows, d_model]`, of `source_states`.
        """
        return self.mapped(self.raw(features, states))

    def terms(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """What the regression gets, `[rows, terms]` float64: standardized features within `CLIP`; with `products` also their
        squares, and their products with those of `FACTORS`.

        Args:
            features: as for a call.
            states: as for a call.
        """
        mean, variance, center, scale = (
            torch.tensor(v, dtype=torch.float64)
            for v in (self.source_mean, self.source_variance, self.center, self.scale)
        )
        columns = torch.cat([features.double(), source_distance(states, mean, variance)[:, None]], 1)
        z = ((columns[:, [NAMES.index(name) for name in self.features]] - center) / scale).clamp(-CLIP, CLIP)
        if not self.products:
            return z
        factors = [z[:, [self.features.index(name)]] for name in FACTORS if name in self.features]
        return torch.cat([z, z * z, *(z * factor for factor in factors)], 1)

    def raw(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The regression's log-odds `[rows]`, before the map.

        Args:
            features: as for a call.
            states: as for a call.
        """
        return self.terms(features, states) @ torch.tensor(self.weights, dtype=torch.float64) + self.bias

    def mapped(self, raw: torch.Tensor) -> torch.Tensor:
        """Log-odds to calibrated probabilities; never falling."""
        a, b, c = self.map
        log_s, log_rest = torch.nn.functional.logsigmoid(raw), torch.nn.functional.logsigmoid(-raw)
        return torch.sigmoid(a * log_s - b * log_rest + c)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AnswerConfidence:
        """The inverse of `to_dict`.

        Raises:
            DeedConfigError: a form of another version, or a field that cannot be used; names it.
        """
        remedy = "calibrate answers again (deed calibrate --answers), or remove the field"
        if not isinstance(values, Mapping) or values.get("version") != VERSION:
            found = values.get("version") if isinstance(values, Mapping) else values
            raise DeedConfigError(
                f"answer_calibration has version {found!r:.40}, this deed reads version {VERSION}; {remedy}"
            )
        known = {f.name for f in fields(cls)}
        needed = {"features", "center", "scale", "weights", "bias", "map", "source_mean", "source_variance"}
        if set(values) - known or needed - set(values):
            wrong = sorted(set(values) - known) or sorted(needed - set(values))
            raise DeedConfigError(f"answer_calibration has unknown fields or lacks some: {wrong}; {remedy}")
        names = values["features"]
        if not isinstance(names, list) or not names or any(name not in NAMES for name in names):
            raise DeedConfigError(f"answer_calibration: features must be some of {', '.join(NAMES)}; {remedy}")
        if not isinstance(values.get("products", False), bool):
            raise DeedConfigError(f"answer_calibration: products must be true or false; {remedy}")
        terms = len(names) * (2 + sum(name in names for name in FACTORS) if values.get("products") else 1)
        sizes = {"center": len(names), "scale": len(names), "weights": terms, "map": 3}
        sizes["source_mean"] = sizes["source_variance"] = _length(values["source_mean"])
        for name, size in sizes.items():
            if not _numbers(values[name]) or _length(values[name]) != size:
                raise DeedConfigError(f"answer_calibration: {name} must be a list of {size} numbers; {remedy}")
        for name in ("bias", "abstain_below", "risk", "confidence"):
            if not _numbers([values.get(name, 0.0)]):
                raise DeedConfigError(
                    f"answer_calibration: {name} must be a number, got {values[name]!r:.40}; {remedy}"
                )
        if min(*values["scale"], *values["source_variance"]) <= 0 or min(values["map"][:2]) < 0:
            raise DeedConfigError(
                f"answer_calibration: scale and source_variance must be above 0, map's first two not below; {remedy}"
            )
        for name in ("settings", "report"):
            if not isinstance(values.get(name, {}), dict):
                raise DeedConfigError(f"answer_calibration: {name} must be an object; {remedy}")
        return cls(**values)


def source_distance(states: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """`[rows]` float64: log of the mean squared distance from `mean`, each axis in its own standard deviations (Mahalanobis
    with a diagonal covariance). About 0 for what is like the sources it was taken from.

    Args:
        states: `[rows, d_model]`.
        mean: `[d_model]`.
        variance: `[d_model]`.
    """
    squares = (states.double() - mean.double()) ** 2 / variance.double()
    return squares.mean(1).clamp(min=1e-9).log()


def answer_confidence_of(config: DeedConfig) -> AnswerConfidence | None:
    """The stored model; None where answers are not calibrated."""
    return None if config.answer_calibration is None else AnswerConfidence.from_dict(config.answer_calibration)


def exit_settings(config: DeedConfig, threshold: Any, policy: Any, exit_check: Any, over: str) -> dict[str, Any]:
    """What the confidence of an answer depends on: where tokens leave, as it is saved with a calibration.

    Args:
        config: the model's.
        threshold: given to `generate()`; None: the configuration's.
        policy: given to `generate()` in a threshold's place, or None.
        exit_check: in force.
        over: in force, see `DeedConfig.confidence_over`.
    """
    value = config.threshold if threshold is None else threshold
    if isinstance(value, torch.Tensor):
        value = value.unique().tolist()
        value = value[0] if len(value) == 1 else value
    return {
        "exit_layers": list(config.exit_layers or []),
        "threshold": type(policy).__name__ if policy is not None else value,
        "threshold_decay": config.threshold_decay,
        "measure": config.confidence,
        "confidence_over": over,
        "exit_check": exit_check,
        "draft_head": config.draft_head,
    }


def other_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which settings two differ, as a sentence's part: `threshold=0.98, not for 0.5`; empty where they agree."""
    before = {"draft_head": None, **stored}  # former versions had none
    return ", ".join(
        f"{name}={before[name]!r}, not for {value!r}"
        for name, value in now.items()
        if name in before and _long_form(before[name]) != _long_form(value)
    )


def confidence_problem(model: Any, options: Mapping[str, Any]) -> str:
    """Why `generate(answer_confidence=True)` with these options would give no confidence; empty where it would.

    Args:
        model: a deed model.
        options: of `generate()`.
    """
    config = model.deed_config
    stored = answer_confidence_of(config)
    if stored is None:
        return "this model's answers are not calibrated (deed calibrate FOLDER --answers)"
    if options.get("num_beams", 1) > 1:
        return "confidence is not known of answers found by beams"
    if options.get("exact"):
        return "confidence is of answers that leave early, not of exact ones"
    check = next((options[k] for k in ("exit_check", "asking") if options.get(k) is not None), config.exit_check)
    over = options.get("confidence_over") or config.confidence_over
    now = exit_settings(config, options.get("exit_threshold"), options.get("exit_policy"), check, over)
    different = other_settings(stored.settings, now)
    return different and f"answers were calibrated with other settings: for {different}"


def _long_form(spec: Any) -> Any:
    """A measure or an exit check by name in its long form; lists and tuples alike."""
    return {"name": spec} if isinstance(spec, str) else list(spec) if isinstance(spec, (list, tuple)) else spec


def generate_watched(
    model: Any,
    generate: Callable[..., Any],
    cache: StaircaseCache,
    settings: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> DeedGenerateOutput:
    """`generate()` with the confidence of its answers.

    Args:
        model: a deed model.
        generate: Transformers' own, bound.
        cache: among `kwargs`, its policy set.
        settings: of `exit_settings`.
        args: of `generate`.
        kwargs: of `generate`.

    Raises:
        ValueError: beams, a cache that is continued, or settings that answers were not calibrated with.
    """
    given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None) or model.generation_config
    beams = kwargs.get("num_beams", getattr(given, "num_beams", None)) or 1
    if beams > 1:
        raise ValueError(f"answer_confidence is for greedy search and sampling, not for num_beams={beams}")
    if cache.get_seq_length():
        raise ValueError("answer_confidence needs whole answers; leave past_key_values out")
    stored = answer_confidence_of(model.deed_config)
    different = "" if stored is None else other_settings(stored.settings, settings)
    if different:
        raise ValueError(
            f"answer_confidence was calibrated with other settings: it is for {different}; use those, or calibrate again "
            "with deed.calibrate_answers"
        )
    watch = AnswerWatch(len(model.deed_family.layers(model)), len(model.deed_config.exit_layers))
    cache.policy = watch.policy(cache.policy)
    processors = [*(kwargs.get("logits_processor") or ()), watch]
    out = generate(*args, **{**kwargs, "logits_processor": processors, "return_dict_in_generate": True})
    assert cache.state is not None
    out.answer_features, out.source_states = (
        watch.features(out.sequences, cache.state),
        source_states(cache.state),
    )
    if stored is not None:
        if len(stored.source_mean) != out.source_states.shape[1]:
            raise ValueError(
                f"answer_confidence was calibrated on a model of width {len(stored.source_mean)}, not of "
                f"{out.source_states.shape[1]}; calibrate again with deed.calibrate_answers"
            )
        out.confidence = stored(out.answer_features, out.source_states)
    return out


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else -1


def _numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
