"""`deed_exits.safetensors`: read, held against what a configuration asks for, and put into a model."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from deed.config import DeedConfig
from deed.errors import DeedConfigError, DeedLoadError
from deed.exits.adapters import build_adapters
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.exits.draft_head import new_draft_head
from deed.exits.learned import LEARNED, add_learned
from deed.families import family_of

from .saving import EXITS_FILE

DRAFT_IDS = f"{DRAFT_HEAD}.ids"  # of a shortlist: the only whole numbers in a file of exits


def read_exits(path: Path | None, name: str) -> dict[str, torch.Tensor]:
    """The tensors of an exits file.

    Args:
        path: the file; None: there is none.
        name: what it is called where it is missing.

    Raises:
        DeedLoadError: missing, damaged, or with other than finite floating-point numbers.
    """
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


def check_fit(base: Any, config: DeedConfig, exits: Mapping[str, torch.Tensor], where: str) -> None:
    """Compare the exits with what `deed_config` asks for before room is made for it.

    Args:
        base: the model, with or without early exit.
        config: the exits' own.
        exits: of `read_exits`.
        where: the file that the configuration is from.

    Raises:
        DeedLoadError: they do not fit each other, or the model.
    """
    try:
        family = family_of(base)
        resolved = config.resolve(len(family.layers(base)))
        with torch.device("meta"):
            depths, layers = (resolved.exit_layers or [])[:-1], list(family.layers(base))
            if resolved.adapter == "layer":
                layers[-1] = copy.deepcopy(layers[-1]).to("meta")
            adapters = build_adapters(
                resolved.adapter, depths, family.d_model(base), resolved.adapter_dim, layers, resolved.adapter_shared
            )
            if resolved.draft_head is not None:
                adapters[DRAFT_HEAD] = new_draft_head(base, family, resolved.draft_head, start=False)
    except (DeedConfigError, TypeError, RuntimeError) as error:
        raise DeedLoadError(f"{where}: {error}") from None
    learned = {name for name in exits if name.split(".")[0] in LEARNED}
    _compare({k: v for k, v in exits.items() if k not in learned}, adapters.state_dict(), EXITS_FILE)


def fill_exits(model: Any, exits: dict[str, torch.Tensor], name: str) -> None:
    """Put exits into a deed model.

    Args:
        model: whose configuration is theirs.
        exits: of `read_exits`.
        name: of their file.

    Raises:
        DeedLoadError: they do not fit.
    """
    add_learned(model, exits)
    _compare(exits, model.deed_exits.state_dict(), name)
    ids = exits.get(DRAFT_IDS)
    if ids is not None:
        ordered = ids.unique().tolist() == ids.tolist()
        if not ordered or int(ids[0]) < 0 or int(ids[-1]) >= model.deed_family.vocab_size(model):
            raise DeedLoadError(f"{name}: {DRAFT_IDS} must be ascending ids of the vocabulary, each of them once")
    model.deed_exits.load_state_dict(exits)


def load_exits_into(model: Any, folder: str | os.PathLike[str]) -> None:
    """Read `deed_exits.safetensors` of `folder` into `model`.

    Raises:
        DeedLoadError: missing, damaged or not fitting.
    """
    path = Path(folder) / EXITS_FILE
    fill_exits(model, read_exits(path if path.is_file() else None, str(path)), str(path))


def _compare(exits: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], name: str) -> None:
    missing, extra = sorted(set(expected) - set(exits)), sorted(set(exits) - set(expected))
    if missing or extra:
        raise DeedLoadError(f"{name} does not fit deed_config: missing {missing[:4]}, unexpected {extra[:4]}")
    for key, value in exits.items():
        if value.shape != expected[key].shape:
            raise DeedLoadError(f"{name}: {key} is {list(value.shape)}, the model needs {list(expected[key].shape)}")
