"""`from_pretrained`: a saved folder to a deed model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from deed.config import DeedConfig
from deed.errors import DeedConfigError, DeedLoadError
from deed.exits.learned import add_learned

from .classes import model_class
from .model import get_deed_model
from .saving import EXITS_FILE


def from_pretrained(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load a model saved by a deed model's `save_pretrained`.

    Args:
        path: a folder (or, as in Transformers, a Hub id).
        kwargs: passed on to the base class's `from_pretrained` (`dtype`, `device_map`, `revision` …).

    Raises:
        DeedLoadError: no `deed_config`, or a missing, damaged or mismatching file; names it.

    Example:
        ```python
        model.save_pretrained("my-model")
        model = deed.from_pretrained("my-model")  # with its exits, threshold and calibration report
        ```
    """
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
