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
HEARD = ("whisper", "speech", "moonshine", "ctranslate2")  # what speech models' kinds begin with


def tasks_of_kind(model_type: str, hears: bool = False) -> tuple[str, ...]:
    """Names of pipelines for a kind of model, the usual one first.

    Args:
        model_type: as Transformers names it.
        hears: whether it is known to take sound.
    """
    kind = plain_kind(model_type)
    return (SPEECH,) if hears or kind.startswith(HEARD) else SEEN_TASKS.get(kind, TEXT_TASKS)


def usual_task(tasks: tuple[str, ...], asked: bool) -> str:
    """The task that is meant where nobody says it.

    Args:
        tasks: of `tasks_of_kind`.
        asked: whether there is a question; a caption takes none, and a picture without one is captioned.
    """
    others = {"vqa": "caption"} if not asked else {"caption": "vqa"}
    other = others.get(tasks[0])
    return other if other in tasks else tasks[0]


def plain_kind(model_type: str) -> str:
    """A `model_type` in small letters, without dashes and underscores, as the table has it."""
    return model_type.replace("-", "").replace("_", "").lower()
