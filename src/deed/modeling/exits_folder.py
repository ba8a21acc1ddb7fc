"""Folders with exits alone, for a base model that everybody has: written by `model.save_exits`, read by `deed.load_exits`.

Two files: `deed_exits.safetensors` with the exits' parameters (and what exit checks have learned), and `deed_exits.json` with
`deed_config` (thresholds, calibration) and `base`, which says what weights they were trained on (`fingerprint.py`). Those that
ship with deed lie in `checkpoints/`, and are found by that, whatever the model's name is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from deed.config import DeedConfig
from deed.errors import DeedLoadError
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.utils.files import atomic_write, write_json
from deed.utils.locating import file_of
from deed.utils.shipped import CHECKPOINTS

from .exits_file import check_fit, read_exits
from .fingerprint import describe_base, is_base
from .saved_config import read_config, saved_deed_config
from .saving import EXITS_FILE, PREFIX

ABOUT_FILE = "deed_exits.json"
SAVED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMAT = 1  # of ABOUT_FILE
NONE, SHIPPED = "none", "shipped"


def save_exits(model: Any, folder: str | os.PathLike[str], dtype: Any = None) -> None:
    """See `DeedMixin.save_exits`.

    Args:
        model: the deed model.
        folder: made where it is not there; its other files stay.
        dtype: of the saved tensors, such as `torch.float16` or `"float16"`; None: as they are.

    Raises:
        DeedLoadError: `folder` is a file, or that of a whole model.
        ValueError: another dtype, numbers too large for it, or an int8 model.
    """
    target = Path(folder)
    if target.is_file():
        raise DeedLoadError(f"{target} is a file; save_exits needs a folder")
    if (target / "config.json").exists():
        raise DeedLoadError(f"{target} holds a whole model; save exits alone to a folder of their own")
    wanted = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if wanted is not None and wanted not in SAVED_DTYPES:
        raise ValueError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")
    refuse_int8(model, "save exits before deed.quantize")
    exits = {}
    for name, value in model.state_dict().items():
        unused = model.deed_config.draft_head is None and name.startswith(f"{PREFIX}{DRAFT_HEAD}.")
        if name.startswith(PREFIX) and not unused:
            cast = value.detach().to("cpu", wanted if value.is_floating_point() else None).contiguous()
            if not cast.isfinite().all():
                raise ValueError(f"{name} holds numbers that {cast.dtype} cannot; save with dtype=torch.float32")
            exits[name[len(PREFIX) :]] = cast
    about = {"format": FORMAT, "base": describe_base(model), "deed_config": model.deed_config.to_dict()}
    target.mkdir(parents=True, exist_ok=True)
    # What says whose exits these are goes first and comes back last: a folder that was interrupted is refused.
    with atomic_write(target / EXITS_FILE) as temporary:
        save_file(exits, temporary, metadata={"format": "pt"})
        (target / ABOUT_FILE).unlink(missing_ok=True)
    write_json(target / ABOUT_FILE, about, sort_keys=True)


def save_exits_config(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write `model.deed_config` (thresholds, calibration report) into the `deed_exits.json` of exits that were saved alone.

    Args:
        model: with these exits.
        folder: theirs.

    Raises:
        DeedLoadError: the folder holds no exits alone, or damaged ones.
    """
    read_about(folder)
    path = Path(folder) / ABOUT_FILE
    write_json(path, {**read_config(path), "deed_config": model.deed_config.to_dict()}, sort_keys=True)


def refuse_int8(model: Any, instead: str) -> None:
    """Raises:
    ValueError: an int8 model, whose weights are no longer there to compare.
    """
    if (getattr(model, "deed_quantized", None) or {}).get("dtype") == "int8":
        raise ValueError(f"the model's linears are int8 already: {instead}")


def read_about(folder: str | os.PathLike[str], place: Mapping[str, Any] = {}) -> tuple[dict[str, Any], DeedConfig]:
    """What a folder says of its exits: `base`, and their configuration.

    Args:
        folder: with exits alone, or a name on the Hub.
        place: where to look on the Hub, see `deed.utils.locating.PLACE`.

    Raises:
        DeedLoadError: missing or damaged; names the file and the field.
    """
    path = file_of(folder, ABOUT_FILE, place)
    if path is None:
        whole = file_of(folder, "config.json", place) is not None
        instead = (
            "it holds a whole model, load it with deed.from_pretrained" if whole else "save it by model.save_exits"
        )
        raise DeedLoadError(f"{folder} is no folder with exits alone: it has no {ABOUT_FILE}; {instead}")
    values = read_config(path)
    if values.get("format") != FORMAT:
        raise DeedLoadError(
            f"{path}: format must be {FORMAT}, got {values.get('format')!r:.80}; is it of a newer deed?"
        )
    if not isinstance(values.get("base"), dict) or "deed_config" not in values:
        raise DeedLoadError(f"{path} must have base and deed_config; save the exits again")
    return values["base"], saved_deed_config(values, str(path))


def read_for(
    model: Any, folder: str | os.PathLike[str], any_base: bool = False, place: Mapping[str, Any] = {}
) -> tuple[DeedConfig, dict[str, torch.Tensor]]:
    """Configuration and tensors of a folder's exits, after they were held against the model, which stays as it is.

    Args:
        model: with or without early exit.
        folder: with exits alone.
        any_base: take them for other weights than they were trained on, too.
        place: as for `read_about`.

    Raises:
        DeedLoadError: missing, damaged, trained on other weights, or not fitting.
        ValueError: an int8 model.
    """
    refuse_int8(model, "load exits before deed.quantize")
    base, config = read_about(folder, place)
    if not any_base and not is_base(model, base):
        raise DeedLoadError(
            f"the exits in {folder} were trained on other weights than this {type(model).__name__} has: a "
            f"{base.get('class', 'model')} of {base.get('weights', '?')} weights with the fingerprint "
            f"{str(base.get('float16'))[:12]}…; load them on that model (one that was fine-tuned, or kept in int8, is another)"
        )
    exits = read_exits(file_of(folder, EXITS_FILE, place), f"{folder}: {EXITS_FILE}")
    check_fit(model, config, exits, str(Path(folder) / ABOUT_FILE))
    return config, exits


def shipped_exits(model: Any, root: Path = CHECKPOINTS) -> Path | None:
    """The folder of exits that came with deed for a model of these weights; None where there is none.

    Args:
        model: with or without early exit; not in int8.
        root: whose subfolders are looked at.

    Raises:
        DeedLoadError: what came along is damaged.
    """
    for path in sorted(root.glob(f"*/{ABOUT_FILE}")):
        if is_base(model, read_about(path.parent)[0]):
            return path.parent
    return None
