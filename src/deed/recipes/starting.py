"""The model that a recipe trains: fresh and made ready, or a saved one to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deed.config import DeedConfig
from deed.constants import NEVER_EXIT
from deed.modeling.loading import from_pretrained
from deed.modeling.model import get_deed_model
from deed.utils.quiet import quiet


def prepared(model: Any, recipe: Any) -> Any:
    """A fresh model as the recipe wants it: with exits, or for a conventional training without."""
    with quiet():
        model.set_attn_implementation("eager")  # a third faster at these sizes on a CPU
    if not recipe.conventional:
        get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss=recipe.loss, threshold=NEVER_EXIT))
    return model


def check_start(recipe: Any, kind: Any, name: str) -> None:
    """Raises `ValueError` where `recipe.start` is not the folder of a saved `kind`, or of one trained in the other way.

    Args:
        kind: the plain model's class.
        name: what messages call it.
    """
    if not recipe.start:
        return
    folder = Path(recipe.start)
    if not (folder / "config.json").is_file():
        raise ValueError(f"--from needs the folder of a saved model; got {folder}")
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type != kind.config_class.model_type:
        raise ValueError(f"--from {folder} is not {name}")
    if (folder / "deed_exits.safetensors").is_file() == recipe.conventional:
        raise ValueError(f"--from {folder} is {'a deed' if recipe.conventional else 'a conventional'} model")


def started(recipe: Any, kind: Any) -> Any:
    """The saved model to go on from, checked before."""
    load = kind.from_pretrained if recipe.conventional else from_pretrained
    model: Any = load(Path(recipe.start), attn_implementation="eager")
    if not recipe.conventional:
        forget_measured(model)
    return model


def forget_measured(model: Any) -> None:
    """Of a deed model that is trained on: neither its calibration nor its curve holds any longer, so it runs at full depth
    until it is calibrated anew."""
    config = model.deed_config
    config.threshold, config.calibration, config.curve = NEVER_EXIT, None, None
