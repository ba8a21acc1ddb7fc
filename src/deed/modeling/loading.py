"""`from_pretrained`: a saved folder to a deed model. Whatever is in it, the outcome is that model or one clear error."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from deed.config import DeedConfig
from deed.errors import DeedConfigError, DeedLoadError
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.exits.draft_head import new_draft_head
from deed.families import family_of
from deed.models.whisper import is_ctranslate2_whisper, read_ctranslate2_whisper
from deed.utils.locating import PLACE, check_place, file_of

from .exits_file import check_fit, fill_exits, read_exits
from .exits_folder import ABOUT_FILE, NONE, SHIPPED, read_for, shipped_exits
from .model import DeedMixin, get_deed_model, unwrap
from .saved_config import check_generation_config, check_layers, read_config, saved_class, saved_deed_config
from .saving import EXITS_FILE

#: Arguments of Transformers' `from_pretrained` that are not for a deed model, and what to do instead.
REFUSED = {
    "adapter_kwargs": "merge the adapter into the plain model first, save that, and load the folder",
    "device_mesh": "load onto one device",
    "distributed_config": "load onto one device",
    "gguf_file": "give a folder with safetensors",
    "ignore_mismatched_sizes": "tensors that do not fit would be random; mend config.json or the weights",
    "kernel_config": "early exit drives the layers' own code",
    "quantization_config": "load it plainly, then deed.quantize(model)",
    "state_dict": "load the folder, then model.load_state_dict(...)",
    "tp_plan": "load onto one device",
    "tp_size": "load onto one device",
    "use_kernels": "early exit drives the layers' own code",
}


def from_pretrained(
    path: str | os.PathLike[str], *, exits: str | os.PathLike[str] | None = None, **kwargs: Any
) -> Any:
    """Load a model saved by a deed model's `save_pretrained`, a plain Transformers checkpoint, or a Whisper that CTranslate2
    converted (what faster-whisper downloads).

    A plain one gets untrained exits, with a warning.

        model = deed.from_pretrained("runs/captions", dtype=torch.bfloat16)
        model, info = deed.from_pretrained("runs", subfolder="best", output_loading_info=True)

    Args:
        path: a folder (or, as in Transformers, a Hub id).
        exits: a folder (or Hub id) with exits alone, see `deed.load_exits`, in place of the model's own; `"shipped"`: where
            the model has none of its own, those that came with deed for its weights; None or `"none"`: the model's own.
        kwargs: passed on to the base class's `from_pretrained` (`dtype`, `device_map`, `revision`, `subfolder` …);
            docs/arguments.md goes through all of them.

    Returns:
        The model in evaluation mode; with `output_loading_info=True` also Transformers' report about the base's tensors.

    Raises:
        DeedLoadError: nothing there, or a missing, damaged or mismatching file; names file and field.
        ValueError: an argument that a deed model cannot be loaded with; says what to do instead.

    Example:
        ```python
        model.save_pretrained("my-model")
        model = deed.from_pretrained("my-model")  # with its exits, threshold and calibration report
        ```
    """
    _check_arguments(kwargs)
    place = {name: kwargs[name] for name in PLACE if kwargs.get(name) is not None}
    check_place(path, place)
    folder = Path(path, place.get("subfolder", ""))
    if is_ctranslate2_whisper(folder):
        return _with_exits(_load_ctranslate2(folder, kwargs), path, exits)
    config_path = file_of(path, "config.json", place)
    if config_path is None:
        alone = file_of(path, ABOUT_FILE, place) is not None
        instead = (
            "it holds exits alone: deed.load_exits(base, folder)"
            if alone
            else "give the folder that model.save_pretrained wrote"
        )
        raise DeedLoadError(f"{path} has no config.json; {instead}")
    values, where = read_config(config_path), str(config_path)
    own_path = file_of(path, EXITS_FILE, place)
    if "deed_config" in values:
        config, own = saved_deed_config(values, where), read_exits(own_path, f"{path}: {EXITS_FILE}")
    elif own_path is not None:
        raise DeedLoadError(f"{where} has no deed_config, though {EXITS_FILE} is beside it; save the model again")
    else:
        config, own = DeedConfig(), None
    base_class = saved_class(values, where)
    check_layers(values, _count_tensors(path, place, kwargs.get("variant")), where)
    generation_path = file_of(path, "generation_config.json", place)
    if generation_path is not None and kwargs.get("generation_config") is None:
        check_generation_config(generation_path)
    base, info = _load_base(base_class, path, kwargs, ours=own is not None)
    if own is not None:
        check_fit(base, config, own, where)
    try:
        model = get_deed_model(base, config) if own is None else _room_for(base, config)
    except (DeedConfigError, TypeError) as error:
        raise DeedLoadError(f"{where}: {error}") from None
    if own is None:
        model = _with_exits(model, path, exits)
    else:
        fill_exits(model, own, EXITS_FILE)
        model.deed_exits_from = str(path)
        if exits not in (None, NONE, SHIPPED):
            model = load_exits(model, exits)  # type: ignore[arg-type]
    model.eval()
    return (model, info) if kwargs.get("output_loading_info") else model


def load_exits(base: Any, folder: str | os.PathLike[str], *, any_base: bool = False, **kwargs: Any) -> Any:
    """Put exits that were saved alone, by `model.save_exits(folder)`, on the model that they were trained on.

    Their thresholds and calibration come along. (PEFT users know this as `PeftModel.from_pretrained(base, folder)`.)

    Args:
        base: a Transformers model, which is changed in place as by `get_deed_model`; a deed model, whose exits are replaced;
            or a folder or name of one.
        folder: with the exits, or a name on the Hub.
        any_base: take them for weights other than those they were trained on: what leaves early is then less good, and a
            calibrated threshold promises nothing.
        kwargs: of `deed.from_pretrained`, where `base` is a folder or name.

    Returns:
        The model with these exits, in evaluation mode.

    Raises:
        DeedLoadError: exits that are missing, damaged, trained on other weights or do not fit; the model is then as it was.
        ValueError: an int8 model: load exits first.

    Example:
        ```python
        model.save_exits("my-exits", dtype=torch.float16)
        plain = deed.unwrap(model)
        model = deed.load_exits(plain, "my-exits")  # or a model of the same weights, or a folder or name of one
        ```
    """
    if isinstance(base, str | os.PathLike):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*untrained.*")
            base = from_pretrained(base, **kwargs)
    elif kwargs:
        raise ValueError(f"{', '.join(sorted(kwargs))}: for loading, and the model given is loaded already")
    check_place(folder, {})
    config, exits = read_for(base, folder, any_base)
    plain: Any = unwrap(base) if isinstance(base, DeedMixin) else base  # type: ignore[call-overload]
    model = _room_for(plain, config)
    fill_exits(model, exits, EXITS_FILE)
    model.deed_exits_from = str(folder)
    return model.eval()


def _room_for(base: Any, config: DeedConfig) -> Any:
    """A deed model whose exits a file is about to fill: its draft head is not computed to begin with, as a new one is."""
    model: Any = get_deed_model(base, dataclasses.replace(config, draft_head=None))
    if config.draft_head is not None:
        model.deed_config.draft_head = config.draft_head
        model.deed_exits[DRAFT_HEAD] = new_draft_head(model, model.deed_family, config.draft_head, start=False)
    return model


def _with_exits(model: Any, path: str | os.PathLike[str], exits: str | os.PathLike[str] | None) -> Any:
    """A plain model, just loaded, with the exits that are asked for; a warning where it has none that are trained."""
    found = shipped_exits(model) if exits == SHIPPED else None if exits == NONE else exits
    if found is not None:
        return load_exits(model, found)
    _warn_untrained(path)
    return model


def _warn_untrained(path: str | os.PathLike[str]) -> None:
    warnings.warn(
        f"{path} is a plain model: its exits are untrained, and what leaves early is less good. Train them with deed tune "
        "and calibrate the threshold; or generate with exact=True for the plain model's tokens, or exit_threshold=2 for "
        "full depth",
        stacklevel=3,
    )


def _load_ctranslate2(folder: Path, kwargs: Mapping[str, Any]) -> Any:
    """A CTranslate2 Whisper with untrained exits."""
    others = sorted(k for k, v in kwargs.items() if v is not None and k not in ("dtype", "torch_dtype", "subfolder"))
    if others:
        raise ValueError(
            f"{folder} is a CTranslate2 folder, which is loaded without {', '.join(others)}; leave them out"
        )
    dtype = kwargs.get("dtype") or kwargs.get("torch_dtype") or torch.float32
    dtype = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise ValueError(f"dtype must be float32, float16, bfloat16 or float64, got {dtype!r}")
    return get_deed_model(read_ctranslate2_whisper(folder, dtype))


def _check_arguments(kwargs: Mapping[str, Any]) -> None:
    for name, instead in REFUSED.items():
        if kwargs.get(name):
            raise ValueError(f"{name} cannot be combined with early exit: {instead}")
    if kwargs.get("weights_only") is False:
        raise ValueError("weights_only=False would run what a pickle says; leave it out")


def _load_base(
    base_class: Any, path: str | os.PathLike[str], kwargs: Mapping[str, Any], ours: bool
) -> tuple[Any, Any]:
    """The plain model and Transformers' report, after every tensor was found."""
    try:
        base, info = base_class.from_pretrained(path, **{**kwargs, "output_loading_info": True})
    except Exception as error:  # a configuration from an unknown source may raise any exception
        message = " ".join(str(error).split()) or type(error).__name__
        raise DeedLoadError(f"the base model in {path} cannot be loaded: {message}") from error
    names = [("missing_keys", "misses tensors of the model")]
    if ours:  # of a plain checkpoint, others may be left over, of which Transformers warns
        names.append(("unexpected_keys", "has tensors that are not of the model"))
    unused = _unused(base)
    for name, says in names:
        found = sorted(key for key in map(str, info.get(name) or ()) if not key.startswith(unused))
        if found:
            raise DeedLoadError(
                f"the base model in {path} cannot be loaded: it {says} that config.json describes, {found[:4]}"
                f"{f' and {len(found) - 4} more' if len(found) > 4 else ''}; save the model again"
            )
    return base, info


def _unused(base: Any) -> tuple[str, ...]:
    """What the model's family says that generation does not use."""
    try:
        return family_of(base).unused
    except (DeedConfigError, TypeError):  # said later, when the model gets its exits
        return ()


def _count_tensors(path: str | os.PathLike[str], place: Mapping[str, Any], variant: str | None) -> int:
    """How many tensors the weights have; a great many where that cannot be told without reading them."""
    middle = f".{variant}" if variant else ""
    try:
        if single := file_of(path, f"model{middle}.safetensors", place):
            with safe_open(single, "pt") as weights:
                return len(weights.keys())
        if index := file_of(path, f"model.safetensors.index{middle}.json", place):
            return len(json.loads(index.read_bytes())["weight_map"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # loading says what is wrong with them
    return 1000
