"""What `config.json` says, checked before anything is built from it: it may come from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deed.config import DeedConfig
from deed.errors import DeedLoadError
from deed.policies.exit_checks.spec import check_exit_check
from deed.utils.files import read_json

from .answer_confidence import answer_confidence_of
from .classes import model_class

LARGEST = 2**31 - 1  # of any whole number in a configuration
DEEPEST = 16  # of values within values
LAYERS = re.compile(r"\w*(layers?|depths?)")  # names of fields that count what is built one by one
REPORTS = ("deed_config.calibration", "deed_config.curve")  # measured values, which may be NaN

# Fields of `generation_config.json` with the least value that generation works with.
WHOLE = {"max_length": 1, "max_new_tokens": 1, "num_beams": 1, "num_return_sequences": 1, "min_length": 0}
WHOLE |= {"min_new_tokens": 0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "top_k": 0}
NUMBERS: dict[str, float] = {"temperature": 0, "top_p": 0, "repetition_penalty": 0, "encoder_repetition_penalty": 0}
NUMBERS |= {"length_penalty": -math.inf, "diversity_penalty": 0.0, "max_time": 0.0}
TOKENS: tuple[str, ...] = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
TOKENS += ("forced_bos_token_id", "forced_eos_token_id")
SEVERAL = ("eos_token_id", "decoder_start_token_id", "forced_eos_token_id")  # may be lists
FLAGS: tuple[str, ...] = (
    "do_sample",
    "use_cache",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
FLAGS += ("return_dict_in_generate", "remove_invalid_values", "renormalize_logits")


def read_config(path: Path) -> dict[str, Any]:
    """The object in a `config.json`.

    Raises:
        DeedLoadError: not readable, not JSON, no object, or with numbers that are not finite or nesting out of all proportion.
    """
    values: dict[str, Any] = read_json(path, DeedLoadError)
    _check_values(values, str(path), "", 0)
    return values


def _check_values(value: Any, where: str, field: str, depth: int) -> None:
    if depth > DEEPEST:
        raise DeedLoadError(f"{where}: {field} is nested more than {DEEPEST} deep; save the model again")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(inner, where, f"{field}.{name}" if field else name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, where, field, depth + 1)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise DeedLoadError(
            f"{where}: {field} must be at most {LARGEST}, got a number of {len(f'{value:x}')} hex digits"
        )
    elif isinstance(value, float) and not math.isfinite(value) and not field.startswith(REPORTS):
        raise DeedLoadError(f"{where}: {field} must be a finite number, got {value}")


def saved_class(values: Mapping[str, Any], where: str) -> Any:
    """The class that `architectures` names; where it is missing, what Transformers loads for `model_type`.

    Raises:
        DeedLoadError: neither names a model class.
    """
    from transformers import PreTrainedModel

    names = values.get("architectures")
    if names is None:
        names = [_class_of_type(values.get("model_type"), where)]
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name.isidentifier() for name in names)
    ):
        raise DeedLoadError(
            f"{where}: architectures must be a list with the name of a model class, got {_short(names)}"
        )
    try:
        found = model_class(names[0])
    except Exception as error:  # importing it may raise any exception
        raise DeedLoadError(f"{where}: the architecture {names[0]!r} cannot be imported: {error}") from None
    if found is None:
        raise DeedLoadError(f"{where} names the architecture {names[0]!r}, which Transformers does not have")
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise DeedLoadError(f"{where}: architectures must name a model class, and {names[0]!r} is none")
    return found


def _class_of_type(model_type: Any, where: str) -> str:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    )

    names = {**MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES, **MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    name = names.get(model_type) if isinstance(model_type, str) else None
    if name is None:
        raise DeedLoadError(
            f"{where}: no architectures, and model_type {_short(model_type)} is no encoder-decoder model that Transformers "
            "knows; add architectures with the name of its class"
        )
    return name[0] if isinstance(name, (list, tuple)) else name


def saved_deed_config(values: Mapping[str, Any], where: str) -> DeedConfig:
    """`deed_config`, every field checked.

    Raises:
        DeedLoadError: a field that cannot be used; names it.
    """
    saved = values["deed_config"]
    try:
        if isinstance(saved, dict) and {"asking", "exit_check"} <= saved.keys():
            raise ValueError("asking is the former name of exit_check; keep one of the two")
        config = DeedConfig.from_dict(saved)
        for name in ("confidence", "threshold_decay"):
            options = saved.get(name)
            flags = [k for k, v in options.items() if isinstance(v, bool)] if isinstance(options, dict) else []
            if flags:
                raise ValueError(f"{name}: {flags[0]} must be a number, got {options[flags[0]]}")
        for name in ("calibration", "curve"):
            if not isinstance(saved.get(name), dict | None):
                raise ValueError(f"{name} must be an object, got {_short(saved[name])}")
        _check_curve(config)
        answer_confidence_of(config)
    except Exception as error:  # a field of any type may fail in any way where it is compared or counted
        raise DeedLoadError(f"{where}: deed_config: {_named(saved, error)}") from None
    return config


def _check_curve(config: DeedConfig) -> None:
    """Raises `ValueError` unless the points of a curve, if any, have what `set_target` reads."""
    curve = config.curve or {}
    points = curve.get("points")
    if points is None:
        return
    remedy = "record it again with deed.record_curve, or remove the field"
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"curve: points must be a list of objects, got {_short(points)}; {remedy}")
    exits = curve.get("exit_layers")
    for i, point in enumerate(points):
        threshold, speedup = point.get("threshold"), point.get("speedup")
        several = isinstance(threshold, list)
        fits = not several or (isinstance(exits, list) and len(threshold) in (len(exits) - 1, len(exits)))
        if not fits or not _thresholds(threshold if several else [threshold]):
            raise ValueError(
                f"curve: points[{i}].threshold must be a number of at least 0 or a list of one per exit, got "
                f"{_short(threshold)}; {remedy}"
            )
        for name, value in (
            ("score_drop", point.get("score_drop")),
            ("speedup.median", speedup.get("median") if isinstance(speedup, dict) else None),
        ):
            if not _is_number(value):
                raise ValueError(f"curve: points[{i}].{name} must be a number, got {_short(value)}; {remedy}")
        for name in ("exit_check", "asking"):
            if point.get(name) is not None:
                try:
                    check_exit_check(point[name], config.confidence)
                except Exception as error:  # of any type, it may fail in any way
                    raise ValueError(f"curve: points[{i}].{name}: {error}; {remedy}") from None
    if points and min(point["score_drop"] for point in points) > 0:
        raise ValueError(f"curve: points lack full depth, whose score_drop is 0; {remedy}")


def _thresholds(values: list[Any]) -> bool:
    """Whether these are numbers of at least 0, and there is one."""
    return bool(values) and all(_is_number(value) and value >= 0 for value in values)


def _is_number(value: Any, least: float = -math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def check_generation_config(path: Path) -> None:
    """Refuse a `generation_config.json` that generation would stumble over, or that Transformers would silently pass over.

    Raises:
        DeedLoadError: not readable, no JSON object, or a field of the wrong type or out of range; names file and field.
    """
    from transformers import GenerationConfig

    values, fix = read_config(path), "mend the field, or delete the file to generate by config.json"
    for name, value in values.items():
        if value is None:
            continue
        expected = ""
        if name in WHOLE and not (_is_number(value, WHOLE[name]) and isinstance(value, int)):
            expected = f"a whole number of at least {WHOLE[name]}"
        elif name in NUMBERS and not _is_number(value, NUMBERS[name]):
            expected = "a number" if NUMBERS[name] < 0 else "a number of at least 0"
        elif name in FLAGS and not isinstance(value, bool):
            expected = "true or false"
        elif name in TOKENS:
            several = name in SEVERAL and isinstance(value, list)
            ids = value if several else [value]
            if not ids or not all(_is_number(i, 0) and isinstance(i, int) for i in ids):
                expected = f"a token id{' or a list of some' if name in SEVERAL else ''}"
        if expected:
            raise DeedLoadError(f"{path}: {name} must be {expected}, got {_short(value)}; {fix}")
    try:
        GenerationConfig.from_dict(values)
    except Exception as error:  # values of any type may fail in any way
        raise DeedLoadError(f"{path}: {' '.join(str(error).split())}; {fix}") from None


def _named(saved: Any, error: Exception) -> str:
    """The error, with the first field before it that fails by itself, where the error names none."""
    fields = saved if isinstance(saved, dict) else {}
    if not any(name in str(error) for name in fields):
        for name, value in fields.items():
            try:
                DeedConfig.from_dict({name: value})
            except Exception:
                return f"{name} cannot be {_short(value)} ({error})"
    return str(error)


def check_layers(values: Mapping[str, Any], tensors: int, where: str) -> None:
    """Refuse more layers than there are tensors: building them would take forever.

    Args:
        values: of `config.json`.
        tensors: how many the weights have.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            if name != "deed_config":
                check_layers(value, tensors, where)
            continue
        for count in value if isinstance(value, list) else [value]:
            if LAYERS.fullmatch(name) and isinstance(count, int) and count > tensors:
                raise DeedLoadError(f"{where}: {name} is {count}, but the weights have {tensors} tensors")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
