"""`deed.pipeline`: which task, which model, which processor."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deed.modeling.exits_folder import NONE, SHIPPED
from deed.modeling.loading import from_pretrained, load_exits
from deed.modeling.model import DeedMixin, get_deed_model
from deed.models.whisper import find_whisper
from deed.utils.files import user_cache
from deed.utils.locating import PLACE
from deed.utils.shipped import shipped

from .base import Pipeline

# Task to module and class. The names that Transformers 4 had stand for the same.
_TASKS = {
    "text2text": "text:TextPipeline",
    "summarize": "text:SummaryPipeline",
    "translate": "text:TranslationPipeline",
    "transcribe": "speech:TranscriptionPipeline",
    "caption": "pictures:PicturePipeline",
    "vqa": "pictures:QuestionPipeline",
    "document-qa": "pictures:DocumentPipeline",
}
_FORMER = {
    "text2text-generation": "text2text",
    "summarization": "summarize",
    "translation": "translate",
    "automatic-speech-recognition": "transcribe",
    "image-to-text": "caption",
    "visual-question-answering": "vqa",
    "document-question-answering": "document-qa",
}
# Shipped models by name; a task's first is the one it takes by itself.
_SHIPPED = {"document-qa": ("documents", "paperwork"), "vqa": ("pictures",), "caption": ("pictures",)}


def pipeline(
    task: str,
    model: Any = None,
    *,
    processor: Any = None,
    threshold: Any = None,
    exact: bool = False,
    batch_size: int = 8,
    device: Any = None,
    exits: str | os.PathLike[str] | None = None,
    model_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """A model ready to work on a task, with early exit.

    Args:
        task: `"summarize"`, `"translate"`, `"text2text"`, `"transcribe"`, `"caption"`, `"vqa"` or `"document-qa"`; the names
            of Transformers 4 (`"summarization"`, `"translation_en_to_de"` …) are understood too.
        model: a folder, a Hub name, or a model. A plain one gets exits, which are untrained: use `exact=True` then, or train
            them (`deed tune`); a plain model given as an object is changed in place, `deed.unwrap` undoes it. To transcribe
            also a size of Whisper (`"base"`, `"tiny.en"` …), from the packages that hold it or the Hub. None: the model
            shipped with deed, for pictures and documents, also by name (`"documents"`: short pages, `"paperwork"`: PDFs' own
            text and long pages, `"pictures"`); to transcribe Whisper base.
        processor: processor or tokenizer, or a folder or Hub name of it; needed with a model given as an object.
        threshold: exit threshold; None: the model's own.
        exact: the tokens of full depth, by verified drafts; see docs/exact.md.
        batch_size: pieces generated at once.
        device: where the model is moved.
        exits: folder with exits alone (`model.save_exits`); None: for a plain model by folder or name, those that came with
            deed for its weights, where there are any; `"none"`: not those.
        model_kwargs: of `deed.from_pretrained` (`dtype`, `revision` …), with a name or folder.
        options: of the task (`src_lang`, `tgt_lang`, `chunk_seconds`, `max_source` …) and of `generate()`.

    Returns:
        A `Pipeline`: called with one input or a list of them; `.stream(input)` gives the text as it is generated.

    Raises:
        ValueError: an unknown task, or a model missing.
        TypeError: a model given as an object without its processor.
        DeedLoadError: a folder without a model, or a damaged one.

    Example:
        ```python
        translate = deed.pipeline("translate", model, processor=tokenizer, src_lang="en", tgt_lang="de", max_new_tokens=8)
        translate(["good morning", "good night"])  # each {"translation_text": …, "depth": mean exit depth}
        "".join(translate.stream("good morning"))  # piece by piece
        ```
    """
    name, pair = _task(task)
    options = {**pair, **options}
    # Whether no early exit is taken unverified: then it is of no concern that exits are untrained.
    takes_none = exact or (isinstance(threshold, float | int) and threshold > 1)
    if name == "transcribe" and (model is None or isinstance(model, str)):
        model = find_whisper(model or "base", user_cache())
    if model is None:
        if name not in _SHIPPED:
            raise ValueError(f'pipeline("{task}") needs a model: a folder, a Hub name or a model')
        model = shipped(_SHIPPED[name][0])
    if isinstance(model, str) and model in _SHIPPED.get(name, ()) and not Path(model).is_dir():
        model = shipped(model)
    if isinstance(model, str | os.PathLike):
        place = model
        processor = processor if processor is not None else _processor_of(place, model_kwargs or {})
        with warnings.catch_warnings():
            if takes_none:
                warnings.filterwarnings("ignore", message=".*untrained.*")
            model = from_pretrained(place, exits=SHIPPED if exits is None else exits, **(model_kwargs or {}))
        exits = None
    elif model_kwargs:
        raise ValueError("model_kwargs are for loading; the model given is loaded already")
    if isinstance(processor, str | os.PathLike):
        processor = _processor_of(processor, model_kwargs or {})
    if processor is None:
        raise TypeError("a model given as an object needs processor= (its processor or tokenizer)")
    if exits is not None and exits != NONE:
        model = load_exits(model, exits)
    elif not isinstance(model, DeedMixin):
        model = get_deed_model(model)
        if not takes_none:
            warnings.warn(
                "this is a plain model: its exits are untrained, and what leaves early is less good. Pass exact=True for the "
                "tokens of full depth, or train them with deed tune",
                stacklevel=2,
            )
    model.eval()
    if device is not None:
        model.to(device)
    module, _, cls = _TASKS[name].partition(":")
    made = getattr(importlib.import_module(f".{module}", __package__), cls)
    return made(model, processor, threshold=threshold, exact=exact, batch_size=batch_size, **options)


def task_name(task: str) -> str:
    """A task's name here, of this or a former name.

    Raises:
        ValueError: there is no such task.
    """
    return _task(task)[0]


def _task(task: str) -> tuple[str, dict[str, str]]:
    """The task's name here, and the languages that are part of a former name."""
    parts = task.split("_")
    if len(parts) == 4 and parts[0] == "translation" and parts[2] == "to":
        return "translate", {"src_lang": parts[1], "tgt_lang": parts[3]}
    name = _FORMER.get(task, task)
    if name not in _TASKS:
        raise ValueError(f"a pipeline's task must be one of {', '.join(_TASKS)}, got {task!r}")
    return name, {}


def _processor_of(place: str | os.PathLike[str], arguments: Mapping[str, Any]) -> Any:
    """Processor or tokenizer of a folder or a Hub name.

    Args:
        place: the folder or name.
        arguments: of `deed.from_pretrained`; those that say where to look hold here as well.
    """
    where = {name: arguments[name] for name in PLACE if arguments.get(name) is not None}
    if Path(place).is_dir():
        from deed.tasks.loading import load_processor

        return load_processor(Path(place) / where.get("subfolder", ""))
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(place, **where)
