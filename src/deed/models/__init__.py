"""Models that Transformers does not have, in its style: registered with its Auto classes by `register_all`."""

from __future__ import annotations


def register_all() -> None:
    """Make `AutoConfig`, `AutoModelForSeq2SeqLM` and `AutoProcessor` know the models of this package."""
    from . import latr, ofa

    latr.register()
    ofa.register()
