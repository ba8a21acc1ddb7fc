"""The data sets that `deed train --task NAME` and its siblings know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deed.errors import DataError

from .base import Example
from .readers import coco_captions, docvqa, easyvqa, ocrvqa, ofa_tsv, refcoco, snli_ve, stvqa, textvqa, vqav2


class Reader(NamedTuple):
    """How a data set is read and scored, and which models can do it.

    Attributes:
        read: `read(data, split)` yields the split's examples; `data` is the folder, None where a package brings it.
        metric: the function of `deed.metrics.text` that scores it (`{metric}_each` scores each example), or for what only
            OFA does a key of `deed.tasks.picture_scores.BEST`.
        description: one line for `--help`.
        needs_ocr: whether it has text in its pictures and brings no OCR of them.
        models: model types: `"latr"` answers questions, with the words in the picture where there are any; `"ofa"` reads
            no words, but finds boxes and writes captions, too.
        asks: what OFA is asked, one of `deed.tasks.pictures.ASKS`.
        on_disk: whether `data` must be given.
    """

    read: Callable[[Any, str], Iterator[Example]]
    metric: str
    description: str
    needs_ocr: bool = False
    models: tuple[str, ...] = ("latr",)
    asks: str = "vqa"
    on_disk: bool = True


BOTH, OFA = ("latr", "ofa"), ("ofa",)
READERS: dict[str, Reader] = {
    "docvqa": Reader(
        docvqa.read, "anls", "questions about scanned documents, OCR included (also as MP-DocVQA's imdb)"
    ),
    "textvqa": Reader(textvqa.read, "vqa_accuracy", "questions about text in photographs, Rosetta OCR included"),
    "stvqa": Reader(stvqa.read, "anls", "questions about text in photographs, no OCR (task 3)", needs_ocr=True),
    "ocrvqa": Reader(ocrvqa.read, "exact_match", "questions about book covers, no OCR", needs_ocr=True),
    "easyvqa": Reader(
        easyvqa.read,
        "exact_match",
        "questions about a coloured shape; comes with the package easy-vqa",
        models=BOTH,
        on_disk=False,
    ),
    "vqav2": Reader(vqav2.read, "vqa_accuracy", "questions about COCO photographs", models=BOTH),
    "refcoco": Reader(
        refcoco.read, "acc_at_0.5", "RefCOCO, + and g: the box that an expression means", models=OFA, asks="refer"
    ),
    "coco_captions": Reader(coco_captions.read, "cider_d", "captions of COCO photographs", models=OFA, asks="caption"),
    "snli_ve": Reader(
        snli_ve.read, "exact_match", "whether a photograph implies a sentence", models=OFA, asks="snli_ve"
    ),
    **{
        f"ofa_tsv_{asks}": Reader(
            partial(ofa_tsv.read_split, asks), metric, f"OFA's own files, {asks}", models=OFA, asks=asks
        )
        for asks, metric in {
            "vqa": "ofa_vqa_score",
            "refer": "acc_at_0.5",
            "caption": "cider_d",
            "snli_ve": "exact_match",
        }.items()
    },
}


def read(task: str, data: Path | None, split: str) -> Iterator[Example]:
    """A data set's examples as its reader gives them.

    Raises:
        DataError: no `data` for a data set on disk; see also its reader.
    """
    if READERS[task].on_disk and data is None:
        raise DataError(f"--task {task} is read from disk; give its folder as --data")
    return READERS[task].read(data, split)


def check_task(task: str, kind: str) -> None:
    """Raises:
    DataError: no data set, or none that a model of this type can do.
    """
    known = sorted(name for name, reader in READERS.items() if kind in reader.models)
    if task not in known:
        raise DataError(f"task must be one of {', '.join(known)}, got {task!r}")
