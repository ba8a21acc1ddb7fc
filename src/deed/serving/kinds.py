"""Which pipelines a kind of model is asked through, by its `model_type` alone: without PyTorch, as Ray's ingress needs it."""

from __future__ import annotations

SPEECH = "transcribe"
TEXT_TASKS = ("text2text", "summarize", "translate")
# Models that look at pictures or pages, by `plain_kind`; the usual task first.
SEEN_TASKS = {
    "latr": ("document-qa",),
    "ofa": ("vqa", "caption", "refer"),
    "florence2": ("caption", "vqa"),
    "pix2struct": ("document-qa", "vqa", "caption"),
    "visionencoderdecoder": ("caption", "document-qa", "vqa"),
}


def plain_kind(model_type: str) -> str:
    """A `model_type` in small letters, without dashes and underscores, as the table has it."""
    return model_type.replace("-", "").replace("_", "").lower()
