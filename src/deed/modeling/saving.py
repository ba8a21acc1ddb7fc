"""Folders: the plain model's own files, plus `deed_exits.safetensors` and `deed_config` inside `config.json`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from deed.errors import DeedLoadError
from deed.utils.files import atomic_write, read_json, write_json

EXITS_FILE = "deed_exits.safetensors"
PREFIX = "deed_exits."


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
        with atomic_write(folder / EXITS_FILE) as temporary:
            save_file(exits, temporary, metadata={"format": "pt"})
    hub_options = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "create_pr") if k in kwargs}
    base_save(save_directory, is_main_process=is_main_process, state_dict=base, **kwargs)
    if push_to_hub:
        # Through push_to_hub, which saves anew into an empty folder and so uploads the exits file as well.
        repo_id = hub_options.pop("repo_id", Path(save_directory).name)
        model.push_to_hub(repo_id, **hub_options)


def save_deed_config(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write `model.deed_config` (thresholds, calibration report) into the `config.json` of a saved folder.

    Raises:
        DeedLoadError: the folder has no readable `config.json`.
    """
    path = Path(folder) / "config.json"
    values = {**read_json(path, DeedLoadError), "deed_config": model.deed_config.to_dict()}
    write_json(path, values, sort_keys=True)
