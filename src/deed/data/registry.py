"""The data sets that `deed train --task NAME` and its siblings know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from deed.errors import DataError

from .base import Example

INSTALL = 'pip install "deed-transformers[documents]"'


class Reader(NamedTuple):
    """How a data set is read and scored, and which models can do it.

    Attributes:
        read: `read(data, split, skip_missing=False)` yields the split's examples; `data` is the folder, None where a
            package brings it.
        metric: the function of `deed.metrics.text` that scores it (`{metric}_each` scores each example), or for what only
            OFA does a metric of `deed.tasks.pictures.PictureTask`.
        description: one line for `--help`.
        needs_ocr: whether it has text in its pictures and brings no OCR of them.
        models: model types: `"latr"` answers questions, with the words in the picture where there are any; `"ofa"` reads
            no words, but finds boxes and writes captions, too.
        asks: what OFA is asked, one of `deed.tasks.pictures.ASKS`.
        on_disk: whether `data` must be given.
    """

    read: Callable[..., Iterator[Example]]
    metric: str
    description: str
    needs_ocr: bool = False
    models: tuple[str, ...] = ("latr",)
    asks: str = "vqa"
    on_disk: bool = True


def _lazy(module: str, *arguments: Any, function: str = "read") -> Callable[..., Iterator[Example]]:
    """A reader's function, its module imported when it is called: readers need packages that not everybody has."""

    def read(data: Any, split: str, skip_missing: bool = False) -> Iterator[Example]:
        try:
            reader = import_module(f"deed.data.readers.{module}")
        except ImportError as error:
            raise DataError(f"data sets cannot be read ({error}): {INSTALL}") from None
        found: Iterator[Example] = getattr(reader, function)(*arguments, data, split, skip_missing=skip_missing)
        return found

    return read


BOTH, OFA = ("latr", "ofa"), ("ofa",)
OFA_METRICS = {"vqa": "ofa_vqa_score", "refer": "acc_at_0.5", "caption": "cider_d", "snli_ve": "exact_match"}
READERS: dict[str, Reader] = {
    "docvqa": Reader(
        _lazy("docvqa"), "anls", "questions about scanned documents, OCR included (also as MP-DocVQA's imdb)"
    ),
    "textvqa": Reader(_lazy("textvqa"), "vqa_accuracy", "questions about text in photographs, Rosetta OCR included"),
    "stvqa": Reader(_lazy("stvqa"), "anls", "questions about text in photographs, no OCR (task 3)", needs_ocr=True),
    "ocrvqa": Reader(_lazy("ocrvqa"), "exact_match", "questions about book covers, no OCR", needs_ocr=True),
    "easyvqa": Reader(
        _lazy("easyvqa"),
        "exact_match",
        "questions about a colored shape; comes with the package easy-vqa",
        models=BOTH,
        on_disk=False,
    ),
    "vqav2": Reader(_lazy("vqav2"), "vqa_accuracy", "questions about COCO photographs", models=BOTH),
    "refcoco": Reader(
        _lazy("refcoco"), "acc_at_0.5", "RefCOCO, + and g: the box that an expression means", models=OFA, asks="refer"
    ),
    "coco_captions": Reader(
        _lazy("coco_captions"), "cider_d", "captions of COCO photographs", models=OFA, asks="caption"
    ),
    "snli_ve": Reader(
        _lazy("snli_ve"), "exact_match", "whether a photograph implies a sentence", models=OFA, asks="snli_ve"
    ),
    **{
        f"ofa_tsv_{asks}": Reader(
            _lazy("ofa_tsv", asks, function="read_split"), metric, f"OFA's own files, {asks}", models=OFA, asks=asks
        )
        for asks, metric in OFA_METRICS.items()
    },
}


def read(task: str, data: Path | None, split: str, skip_missing: bool = False) -> Iterator[Example]:
    """A data set's examples as its reader gives them.

    Args:
        task: a name in `READERS`.
        data: its folder; None where a package brings it.
        split: `train`, `val`, …
        skip_missing: leave out the entries whose picture is missing. The iterator's `skipped` counts them, and at the end a
            `SkippedPictures` warning says how many there were.

    Raises:
        DataError: no `data` for a data set on disk; see also its reader.
        MissingPictureError: a picture is missing, and `skip_missing` is not given.
    """
    if READERS[task].on_disk and data is None:
        raise DataError(f"--task {task} is read from disk; give its folder as --data")
    return READERS[task].read(data, split, skip_missing=skip_missing)


def check_task(task: str, kind: str) -> None:
    """Raises:
    DataError: no data set, or none that a model of this type can do.
    """
    known = sorted(name for name, reader in READERS.items() if kind in reader.models)
    if task not in known:
        raise DataError(f"task must be one of {', '.join(known)}, got {task!r}")
