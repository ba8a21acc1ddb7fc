"""Folders: the plain model's own files, plus `deed_exits.safetensors` and `deed_config` inside `config.json`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .config import DeedConfig, DeedConfigError
from .exits import add_learned

EXITS_FILE = "deed_exits.safetensors"
PREFIX = "deed_exits."


class DeedLoadError(ValueError):
    """A folder that does not hold a deed model, or holds a damaged one; the message names file and fix."""


def save_pretrained(
    model: Any,
    base_save: Callable[..., None],
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    state_dict: dict[str, torch.Tensor] | None = None,
    push_to_hub: bool = False,
    **kwargs: Any,
) -> None:
    """See `DeedMixin.save_pretrained`."""
    state = model.state_dict() if state_dict is None else state_dict
    exits = {k[len(PREFIX) :]: v.detach().contiguous().cpu() for k, v in state.items() if k.startswith(PREFIX)}
    base = {k: v for k, v in state.items() if not k.startswith(PREFIX)}
    model.config.deed_config = model.deed_config.to_dict()
    if is_main_process:
        folder = Path(save_directory)
        if folder.is_file():
            raise DeedLoadError(f"{folder} is a file; save_pretrained needs a folder")
        folder.mkdir(parents=True, exist_ok=True)
        # To a temporary name first, so that an interrupted save leaves the old file or none.
        handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
        try:
            save_file(exits, name, metadata={"format": "pt"})
            os.chmod(name, 0o644)
            os.replace(name, folder / EXITS_FILE)
        finally:
            if os.path.exists(name):
                os.unlink(name)
    hub_options = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "create_pr") if k in kwargs}
    base_save(save_directory, is_main_process=is_main_process, state_dict=base, **kwargs)
    if push_to_hub:
        # Through push_to_hub, which saves anew into an empty folder and so uploads the exits file as well.
        repo_id = hub_options.pop("repo_id", Path(save_directory).name)
        model.push_to_hub(repo_id, **hub_options)


def from_pretrained(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load a model saved by a deed model's `save_pretrained`.

    Args:
        path: a folder (or, as in Transformers, a Hub id).
        kwargs: passed on to the base class's `from_pretrained` (`dtype`, `device_map`, `revision` …).

    Raises:
        DeedLoadError: no `deed_config`, or a missing, damaged or mismatching file; names it.
    """
    from .model import get_deed_model  # model.py imports this module for saving

    config_path = _file(path, "config.json", kwargs)
    try:
        raw = json.loads(Path(config_path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeedLoadError(f"{config_path} cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict) or "deed_config" not in raw:
        raise DeedLoadError(
            f"{config_path} has no deed_config; for a plain model use get_deed_model(model, DeedConfig(…))"
        )
    try:
        config = DeedConfig.from_dict(raw["deed_config"])
    except (DeedConfigError, TypeError) as error:
        raise DeedLoadError(f"{config_path}: {error}") from None
    exits = _load_exits(_file(path, EXITS_FILE, kwargs))
    architecture = (raw.get("architectures") or ["?"])[0]
    base_class = model_class(architecture)
    if base_class is None:
        raise DeedLoadError(f"{config_path} names the architecture {architecture!r}, which Transformers does not have")
    try:
        base = base_class.from_pretrained(path, **kwargs)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise DeedLoadError(f"the base model in {path} cannot be loaded: {error}") from error
    try:
        model = get_deed_model(base, config)
    except DeedConfigError as error:
        raise DeedLoadError(f"{config_path}: {error}") from None
    _fill_exits(model, exits, EXITS_FILE)
    model.eval()
    return model


def model_class(name: str) -> Any:
    """A model class by name: Transformers' own, or one registered with `AutoModelForSeq2SeqLM`."""
    registered = transformers.AutoModelForSeq2SeqLM._model_mapping._extra_content.values()
    return getattr(transformers, name, None) or next((c for c in registered if c.__name__ == name), None)


def save_deed_config(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write `model.deed_config` (thresholds, calibration report) into the `config.json` of a saved folder.

    Raises:
        DeedLoadError: the folder has no readable `config.json`.
    """
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeedLoadError(f"{path} cannot be read as JSON: {error}") from None
    values["deed_config"] = model.deed_config.to_dict()
    temporary = path.with_name("config.json.tmp")
    temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def load_exits_into(model: Any, folder: str | os.PathLike[str]) -> None:
    """Read `deed_exits.safetensors` of `folder` into `model`.

    Raises:
        DeedLoadError: missing, damaged or not fitting.
    """
    path = Path(folder) / EXITS_FILE
    _fill_exits(model, _load_exits(str(path)), str(path))


def _fill_exits(model: Any, exits: dict[str, torch.Tensor], name: str) -> None:
    add_learned(model, exits)
    expected = model.deed_exits.state_dict()
    missing, extra = sorted(set(expected) - set(exits)), sorted(set(exits) - set(expected))
    if missing or extra:
        raise DeedLoadError(f"{name} does not fit deed_config: missing {missing[:4]}, unexpected {extra[:4]}")
    for key, value in exits.items():
        if value.shape != expected[key].shape:
            raise DeedLoadError(f"{name}: {key} is {list(value.shape)}, the model needs {list(expected[key].shape)}")
    model.deed_exits.load_state_dict(exits)


def _load_exits(path: str) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise DeedLoadError(f"{path} is missing; save the model again with model.save_pretrained(folder)")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DeedLoadError(f"{path} is damaged or cut short: {error}") from None


def _file(path: str | os.PathLike[str], name: str, kwargs: dict[str, Any]) -> str:
    folder = Path(path)
    if folder.is_dir():
        return str(folder / name)
    if folder.exists() or str(path).count("/") > 1 or str(path).startswith((".", "/")):
        raise DeedLoadError(f"{path} is not a folder with a saved model")
    from transformers.utils.hub import cached_file

    options = {k: kwargs[k] for k in ("revision", "cache_dir", "token", "local_files_only") if k in kwargs}
    try:
        found = cached_file(str(path), name, **options)
    except OSError as error:
        raise DeedLoadError(f"{name} of {path} cannot be had: {error}") from None
    assert found is not None
    return found
