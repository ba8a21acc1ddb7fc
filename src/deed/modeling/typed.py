"""Types of models with early exit, for type checkers.

Python's typing has no intersection, so "the class it was, and `DeedMixin`" cannot be said once for all classes. Instead each
class that deed drives has a name here for that intersection, and `get_deed_model` and `unwrap` have an overload for each.
A class without one comes back as `DeedPreTrainedModel`. At run time the class is made by `deed_class`; nothing here is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import (
        BartForConditionalGeneration,
        MT5ForConditionalGeneration,
        PreTrainedModel,
        T5ForConditionalGeneration,
        WhisperForConditionalGeneration,
    )

    from .model import DeedMixin

    class DeedPreTrainedModel(DeedMixin, PreTrainedModel):  # type: ignore[misc]
        """Any model with early exit."""

    class DeedT5(DeedPreTrainedModel, T5ForConditionalGeneration):  # type: ignore[misc]
        """A T5 with early exit."""

    class DeedMT5(DeedPreTrainedModel, MT5ForConditionalGeneration):  # type: ignore[misc]
        """An mT5 with early exit."""

    class DeedBart(DeedPreTrainedModel, BartForConditionalGeneration):  # type: ignore[misc]
        """A BART with early exit."""

    class DeedWhisper(DeedPreTrainedModel, WhisperForConditionalGeneration):  # type: ignore[misc]
        """A Whisper with early exit."""
