"""Which logits processors forbid tokens, rather than only reweight them."""

from __future__ import annotations

from typing import Any

# Processors whose -inf depends on the tokens so far and not on the scores: they say what is allowed.
_CONSTRAINTS = (
    "PrefixConstrainedLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
)


def is_constraint(processor: Any) -> bool:
    """Whether a logits processor forbids tokens by the prefix alone. A class of your own may set `is_constraint`."""
    if hasattr(processor, "is_constraint"):
        return bool(processor.is_constraint)
    return any(cls.__name__ in _CONSTRAINTS for cls in type(processor).__mro__)
