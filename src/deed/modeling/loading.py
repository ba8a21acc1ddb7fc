"""`from_pretrained`: a saved folder to a deed model. Whatever is in it, the outcome is that model or one clear error."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from deed.config import DeedConfig
from deed.errors import DeedConfigError, DeedLoadError
from deed.exits.adapters import build_adapters
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.exits.draft_head import new_draft_head
from deed.exits.learned import LEARNED, add_learned
from deed.families import family_of
from deed.models.whisper import is_ctranslate2_whisper, read_ctranslate2_whisper
from deed.utils.locating import PLACE, check_place, file_of

from .model import get_deed_model
from .saved_config import check_generation_config, check_layers, read_config, saved_class, saved_deed_config
from .saving import EXITS_FILE

DRAFT_IDS = f"{DRAFT_HEAD}.ids"  # of a shortlist: the only whole numbers in a file of exits

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


def from_pretrained(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load a model saved by a deed model's `save_pretrained`, a plain Transformers checkpoint, or a Whisper that CTranslate2
    converted (what faster-whisper downloads).

    A plain one gets untrained exits, with a warning.

        model = deed.from_pretrained("runs/captions", dtype=torch.bfloat16)
        model, info = deed.from_pretrained("runs", subfolder="best", output_loading_info=True)

    Args:
        path: a folder (or, as in Transformers, a Hub id).
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
        model = _load_ctranslate2(folder, kwargs)
        _warn_untrained(path)
        return model
    config_path = file_of(path, "config.json", place)
    if config_path is None:
        raise DeedLoadError(f"{path} has no config.json; give the folder that model.save_pretrained wrote")
    values, where = read_config(config_path), str(config_path)
    exits_path = file_of(path, EXITS_FILE, place)
    if "deed_config" in values:
        config, exits = saved_deed_config(values, where), _load_exits(exits_path, f"{path}: {EXITS_FILE}")
    elif exits_path is not None:
        raise DeedLoadError(f"{where} has no deed_config, though {EXITS_FILE} is beside it; save the model again")
    else:
        config, exits = DeedConfig(), None
    base_class = saved_class(values, where)
    check_layers(values, _count_tensors(path, place, kwargs.get("variant")), where)
    generation_path = file_of(path, "generation_config.json", place)
    if generation_path is not None and kwargs.get("generation_config") is None:
        check_generation_config(generation_path)
    base, info = _load_base(base_class, path, kwargs, ours=exits is not None)
    if exits is not None:
        _check_fit(base, config, exits, where)
    try:
        # A draft head is not made to begin with: the file has its weights.
        model = get_deed_model(base, dataclasses.replace(config, draft_head=None if exits else config.draft_head))
        if exits and config.draft_head is not None:
            model.deed_config.draft_head = config.draft_head
            model.deed_exits[DRAFT_HEAD] = new_draft_head(model, model.deed_family, config.draft_head, start=False)
    except (DeedConfigError, TypeError) as error:
        raise DeedLoadError(f"{where}: {error}") from None
    if exits is None:
        _warn_untrained(path)
    else:
        _fill_exits(model, exits, EXITS_FILE)
    model.eval()
    return (model, info) if kwargs.get("output_loading_info") else model


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


def load_exits_into(model: Any, folder: str | os.PathLike[str]) -> None:
    """Read `deed_exits.safetensors` of `folder` into `model`.

    Raises:
        DeedLoadError: missing, damaged or not fitting.
    """
    path = Path(folder) / EXITS_FILE
    _fill_exits(model, _load_exits(path if path.is_file() else None, str(path)), str(path))


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


def _check_fit(base: Any, config: DeedConfig, exits: Mapping[str, torch.Tensor], where: str) -> None:
    """Compare the exits with what `deed_config` asks for before room is made for it."""
    try:
        family = family_of(base)
        resolved = config.resolve(len(family.layers(base)))
        with torch.device("meta"):
            depths, layers = (resolved.exit_layers or [])[:-1], list(family.layers(base))
            if resolved.adapter == "layer":
                layers[-1] = copy.deepcopy(layers[-1]).to("meta")
            adapters = build_adapters(resolved.adapter, depths, family.d_model(base), resolved.adapter_dim, layers)
            if resolved.draft_head is not None:
                adapters[DRAFT_HEAD] = new_draft_head(base, family, resolved.draft_head, start=False)
    except (DeedConfigError, TypeError, RuntimeError) as error:
        raise DeedLoadError(f"{where}: {error}") from None
    learned = {name for name in exits if name.split(".")[0] in LEARNED}
    _compare({k: v for k, v in exits.items() if k not in learned}, adapters.state_dict(), EXITS_FILE)


def _fill_exits(model: Any, exits: dict[str, torch.Tensor], name: str) -> None:
    add_learned(model, exits)
    _compare(exits, model.deed_exits.state_dict(), name)
    ids = exits.get(DRAFT_IDS)
    if ids is not None and (
        ids.unique().tolist() != ids.tolist() or not 0 <= int(ids[0]) <= int(ids[-1]) < _vocab(model)
    ):
        raise DeedLoadError(f"{name}: {DRAFT_IDS} must be ascending ids of the vocabulary, each of them once")
    model.deed_exits.load_state_dict(exits)


def _vocab(model: Any) -> int:
    size: int = model.deed_family.vocab_size(model)
    return size


def _compare(exits: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], name: str) -> None:
    missing, extra = sorted(set(expected) - set(exits)), sorted(set(exits) - set(expected))
    if missing or extra:
        raise DeedLoadError(f"{name} does not fit deed_config: missing {missing[:4]}, unexpected {extra[:4]}")
    for key, value in exits.items():
        if value.shape != expected[key].shape:
            raise DeedLoadError(f"{name}: {key} is {list(value.shape)}, the model needs {list(expected[key].shape)}")


def _load_exits(path: Path | None, name: str) -> dict[str, torch.Tensor]:
    if path is None:
        raise DeedLoadError(
            f"{name} is missing, and with it the exits: saving was interrupted, or the file was not copied; save the model "
            "again with model.save_pretrained(folder)"
        )
    try:
        exits = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DeedLoadError(f"{path} is damaged or cut short: {error}") from None
    for key, value in exits.items():
        if key == DRAFT_IDS and value.dtype == torch.long:
            continue
        if not value.is_floating_point():
            raise DeedLoadError(f"{path}: {key} must be floating-point numbers, got {value.dtype}")
        if not value.isfinite().all():
            raise DeedLoadError(
                f"{path}: {key} holds numbers that are not finite; load an earlier save, or train again"
            )
    return exits
