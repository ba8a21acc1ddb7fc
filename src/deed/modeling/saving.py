"""Folders: the plain model's own files, plus `deed_exits.safetensors` and `deed_config` inside `config.json`.

A folder is written beside first, inside itself, and the files then moved to their places: the old exits' file goes first,
the new one comes last. Interrupted at any moment, a folder therefore holds the old model, the new one, or one without exits,
which `from_pretrained` refuses; never new exits beside old weights.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from deed.errors import DeedLoadError
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.utils.files import read_json, write_json

EXITS_FILE = "deed_exits.safetensors"
PREFIX = "deed_exits."
STAGE = ".deed_saving.tmp"  # a fixed name, so that the next save finds the remains of an interrupted one
HUB_OPTIONS = ("repo_id", "commit_message", "private", "create_pr", "token")


def save_pretrained(
    model: Any,
    base_save: Callable[..., None],
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    state_dict: dict[str, torch.Tensor] | None = None,
    push_to_hub: bool = False,
    **kwargs: Any,
) -> None:
    """See `DeedMixin.save_pretrained`.

    Args:
        model: the deed model.
        base_save: the plain class's `save_pretrained`, bound.
        save_directory: made where it is not there; its other files stay.
        is_main_process: False: take part in gathering the weights, write nothing.
        state_dict: what to save instead of the model's own, exits included.
        push_to_hub: then upload it.
        kwargs: of the plain class's `save_pretrained`, and of `push_to_hub`.

    Raises:
        DeedLoadError: `save_directory` is a file.
        OSError: it cannot be written; what was there is left as it was.
    """
    folder = Path(save_directory)
    if folder.is_file():
        raise DeedLoadError(f"{folder} is a file; save_pretrained needs a folder")
    state = model.state_dict() if state_dict is None else state_dict
    exits = {k[len(PREFIX) :]: v.detach().contiguous().cpu() for k, v in state.items() if k.startswith(PREFIX)}
    if model.deed_config.draft_head is None:  # not in use
        exits = {k: v for k, v in exits.items() if not k.startswith(f"{DRAFT_HEAD}.")}
    base = {k: v for k, v in state.items() if not k.startswith(PREFIX)}
    model.config.deed_config = model.deed_config.to_dict()
    hub_options = {k: kwargs.pop(k) for k in HUB_OPTIONS if k in kwargs}
    if is_main_process:
        with _staged(folder, kwargs.get("variant")) as stage:
            base_save(stage, is_main_process=True, state_dict=base, **kwargs)
            save_file(exits, stage / EXITS_FILE, metadata={"format": "pt"})
    else:
        base_save(save_directory, is_main_process=False, state_dict=base, **kwargs)
    if push_to_hub:
        # Through push_to_hub, which saves anew into an empty folder and so uploads the exits file as well.
        repo_id = hub_options.pop("repo_id", folder.name)
        model.push_to_hub(repo_id, **hub_options)


@contextmanager
def _staged(folder: Path, variant: str | None) -> Iterator[Path]:
    """A folder to write a model into, whose files go to `folder` when the block ends without an error."""
    stage = folder / STAGE
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        usual = stat.S_IMODE(stage.stat().st_mode) & 0o666  # safetensors leaves files readable by their owner only
        new = sorted(path.name for path in stage.iterdir())
        for name in new:
            if (stage / name).is_file():
                (stage / name).chmod(usual)
        (folder / EXITS_FILE).unlink(missing_ok=True)
        for path in _old_weights(folder, variant):
            if path.name not in new:
                path.unlink()
        for name in sorted(new, key=lambda name: name == EXITS_FILE):  # the exits last
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            os.replace(stage / name, folder / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _old_weights(folder: Path, variant: str | None) -> list[Path]:
    """Weights of an earlier save: a whole file would be read before the new parts, and stale shards would remain unused."""
    middle = f"\\.{re.escape(variant)}" if variant else ""
    known = re.compile(rf"model{middle}(-\d{{5}}-of-\d{{5}})?\.safetensors|model\.safetensors\.index{middle}\.json")
    return [path for path in folder.iterdir() if known.fullmatch(path.name)]


def save_deed_config(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write `model.deed_config` (thresholds, calibration report) into the `config.json` of a saved folder.

    Raises:
        DeedLoadError: the folder has no readable `config.json`.
    """
    path = Path(folder) / "config.json"
    values = {**read_json(path, DeedLoadError), "deed_config": model.deed_config.to_dict()}
    write_json(path, values, sort_keys=True)
