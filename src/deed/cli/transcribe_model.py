"""The model of `deed transcribe`, its exits, and what it is told."""

from __future__ import annotations

import socket
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Whisper's own rules for what came out badly (whisper/transcribe.py; the ratio is that of tokens, as Transformers takes it).
# What looks out for silence remembers its first step, which exact decoding does not take alone: it goes without.
RULES = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
    "condition_on_prev_tokens": False,
}


@dataclass(frozen=True)
class Wanted:
    """The model, and how it decodes.

    Attributes:
        model: a size, a folder or a name.
        exits: folder with exits alone; `"none"`; None: the model's own, or those that came with deed.
        language, task: as Whisper has them.
        threshold: of exits; None: the model's own.
        exact: tokens of full depth, by verified drafts.
        int8: encoder, decoder and head in int8.
    """

    model: str
    exits: str | None
    language: str | None
    task: str
    threshold: float | None
    exact: bool
    int8: bool


def load(wanted: Wanted, batch_size: int) -> Any:
    """The pipeline.

    Args:
        wanted: the model, and how it decodes.
        batch_size: of the pipeline.

    Raises:
        ValueError: no such model, or one that does not transcribe; a language or task that it does not have.
        DeedLoadError: exits that are missing, damaged, or of another model.
    """
    import torch
    from transformers.utils import logging

    import deed
    from deed.constants import NEVER_EXIT
    from deed.models.whisper import find_whisper
    from deed.models.whisper.installed import install_hint
    from deed.utils.files import user_cache

    from .shared import quiet_libraries

    quiet_libraries()
    torch.manual_seed(0)  # what came out badly is sampled anew
    logging.set_verbosity_error()  # Whisper's generate() warns of what it itself does
    name, threshold, exact = wanted.model, wanted.threshold, wanted.exact
    place = find_whisper(name, user_cache())
    folder = Path(place)
    if not folder.is_dir() and not on_hub(place):
        hint = install_hint(name) or "give a folder with --model"
        raise ValueError(f"the model {name!r} is not on this machine, and the Hub cannot be reached: {hint}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*untrained.*")
        pipe: Any = deed.pipeline(
            "transcribe", place, exits=wanted.exits, threshold=threshold, exact=exact, batch_size=batch_size
        )
    if threshold is None and not exact and pipe.model.deed_exits_from is None:
        pipe.options["exit_threshold"] = NEVER_EXIT  # exits that nobody has trained are right by chance
    if wanted.int8:
        deed.quantize(pipe.model, "int8", parts=("encoder", "decoder", "head"))
    if pipe.is_whisper:
        rules = {name: value for name, value in RULES.items() if not (exact and name == "no_speech_threshold")}
        pipe.options |= rules | spoken(pipe.model.generation_config, wanted.language, wanted.task)
    elif wanted.language or wanted.task != "transcribe":
        raise ValueError("--language and --task are Whisper's; this model has none")
    return pipe


def on_hub(place: str) -> bool:
    """Whether a model is in the Hub's cache, or the Hub can be asked: found out at once, where its own client tries for
    minutes."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(place, "config.json"), str):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def spoken(config: Any, language: str | None, task: str) -> dict[str, Any]:
    """Language and task as Whisper's `generate()` takes them.

    Args:
        config: its generation configuration.
        language, task: as given.

    Raises:
        ValueError: it does not have them.
    """
    if not getattr(config, "is_multilingual", False):
        if task == "translate" or language not in (None, "en", "english"):
            raise ValueError("this Whisper knows English only; take one without .en for other languages")
        return {}
    known = {code.strip("<|>") for code in config.lang_to_id}
    if language is not None:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        language = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        if language not in known:
            raise ValueError(f"--language {language!r} is none of {', '.join(sorted(known))}")
    return {"language": language, "task": task}


def decode(pipe: Any, batch: list[Any], timestamps: str, form: str, bar: Any) -> list[dict[str, Any]]:
    """What the pipeline makes of a batch; the bar counts seconds, of a long recording piece by piece.

    Args:
        pipe: of `load`.
        batch: of `batched`.
        timestamps, form: as for `transcribe`.
        bar: advanced by the seconds of the batch.
    """
    options: dict[str, Any] = {}
    total, told = sum(len(samples) for _, samples in batch) / pipe.rate, [0.0]
    if pipe.is_whisper:
        timed = form in ("srt", "vtt") or timestamps != "none"
        options["return_timestamps"] = "word" if form == "json" and timestamps == "word" else timed
        frames = pipe.extractor.hop_length / pipe.rate

        def monitor(places: Any) -> None:
            at = min(total, float(places[:, 0].sum()) * frames) if len(batch) == 1 else told[0]
            bar.advance(max(0.0, at - told[0]))
            told[0] = max(told[0], at)

        options["monitor_progress"] = monitor
    results = pipe([samples for _, samples in batch], **options)
    bar.advance(total - told[0])
    if not pipe.is_whisper and form in ("srt", "vtt"):
        raise ValueError("subtitles need timestamps, which only Whisper gives; take --format txt or json")
    return results
