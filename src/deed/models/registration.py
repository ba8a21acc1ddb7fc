"""LaTr++ and OFA in Transformers' Auto classes, each part when it is first needed.

`import deed` calls `register_lazily`, which imports nothing. Once the code of `AutoConfig` and `AutoProcessor` has been
imported, their tables of names list ours as they list Transformers' own, and look the classes up in the same way, when they
are asked for. (Classes could not be registered at that point: Transformers imports these modules from within others that are
not finished then.) A model class is registered when a configuration of its kind has been made, which `from_pretrained` does
first.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from deed.utils.lazy import after_import

AUTO = "transformers.models.auto"
#: By model type: the names of the package's configuration, model and processor class.
CLASSES = {
    "latr": ("LatrConfig", "LatrForConditionalGeneration", "LatrProcessor"),
    "ofa": ("OFAConfig", "OFAForConditionalGeneration", "OFAProcessor"),
}


def register_lazily() -> None:
    """Make `AutoConfig` and `AutoProcessor` know the models of this package, now or as soon as they are imported."""
    for kind in CLASSES:
        # Where Transformers looks for the classes of a model type. These packages are lazy themselves.
        sys.modules.setdefault(f"transformers.models.{kind}", importlib.import_module(f"deed.models.{kind}"))
    after_import(f"{AUTO}.configuration_auto", lambda: _list_names("configuration_auto", "CONFIG_MAPPING_NAMES", 0))
    after_import(f"{AUTO}.processing_auto", lambda: _list_names("processing_auto", "PROCESSOR_MAPPING_NAMES", 2))


@functools.cache
def register_model(model_type: str) -> None:
    """Make `AutoModelForSeq2SeqLM` know the model class, now or as soon as it is imported; again is harmless."""
    after_import(f"{AUTO}.modeling_auto", lambda: _register_model(model_type))


def registered_class(name: str) -> Any:
    """The model class of this package with that name, imported now; None for any other name."""
    kind = next((kind for kind, (_, model, _) in CLASSES.items() if model == name), None)
    return None if kind is None else _get(kind, name)


def _list_names(module: str, table: str, place: int) -> None:
    names = getattr(sys.modules[f"{AUTO}.{module}"], table)
    for kind, classes in CLASSES.items():
        names.setdefault(kind, classes[place])


def _register_model(model_type: str) -> None:
    from transformers.models.auto.modeling_auto import AutoModelForSeq2SeqLM

    configuration, model, _ = CLASSES[model_type]
    AutoModelForSeq2SeqLM.register(_get(model_type, configuration), _get(model_type, model), exist_ok=True)


def _get(model_type: str, name: str) -> Any:
    return getattr(importlib.import_module(f"deed.models.{model_type}"), name)
