"""Model classes by name."""

from __future__ import annotations

from typing import Any

import transformers

from deed.models.registration import registered_class


def model_class(name: str) -> Any:
    """A model class by name: Transformers' own, one of ours, or one registered with `AutoModelForSeq2SeqLM`; or None."""
    found = getattr(transformers, name, None) or registered_class(name)
    if found is not None:
        return found
    registered = transformers.AutoModelForSeq2SeqLM._model_mapping._extra_content.values()
    return next((c for c in registered if c.__name__ == name), None)
