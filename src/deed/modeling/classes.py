"""Model classes by name."""

from __future__ import annotations

from typing import Any

import transformers


def model_class(name: str) -> Any:
    """A model class by name: Transformers' own, or one registered with `AutoModelForSeq2SeqLM`."""
    registered = transformers.AutoModelForSeq2SeqLM._model_mapping._extra_content.values()
    return getattr(transformers, name, None) or next((c for c in registered if c.__name__ == name), None)
