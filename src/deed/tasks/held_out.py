"""Held-out examples of any task about pictures, as `deed calibrate` and `deed evaluate` read them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from deed.data.base import Example
from deed.data.registry import READERS, read
from deed.errors import DataError

# The tasks on generated scenes, by what OFA is asked; with easy-vqa they are what `scenes` stands for.
SCENES = {"scenes-refer": "refer", "scenes-caption": "caption", "scenes-vqa": "vqa"}
MADE = 1000  # scenes, which are endless, where no number is asked for
NAMES = {"latr": "a LaTr++", "ofa": "an OFA"}


def check_tasks(given: Sequence[str] | None, folder: Path, split: str | None = None) -> list[str]:
    """The tasks asked for, `scenes` as its parts; where none is, those that the saved model is for.

    Args:
        split: of `unseen`, which easy-vqa does not have, `scenes` leaves it out.

    Raises:
        DataError: an unknown task, g2p together with another, or a task that the saved model cannot do.
    """
    model_type = type_of(folder)
    tasks = list(given or [{"latr": "pages", "ofa": "scenes"}.get(model_type, "g2p")])
    known = ["g2p", "pages", *READERS, "scenes", *SCENES]
    strange = [task for task in tasks if task not in known]
    if strange:
        raise DataError(f"--task must be one of {', '.join(known)}, got {strange[0]!r}")
    if "g2p" in tasks and len(tasks) > 1:
        raise DataError("--task g2p is of another kind of model than the others; give it alone")
    if model_type in NAMES:
        for task in tasks:
            if model_type not in models_for(task):
                wanted = " or ".join(NAMES[name] for name in models_for(task)) or "a small T5 for words"
                raise DataError(f"--task {task} needs {wanted}; {folder} holds {NAMES[model_type]}")
    parts = [*SCENES] if split == "unseen" else [*SCENES, "easyvqa"]
    return list(dict.fromkeys(itertools.chain(*(parts if task == "scenes" else [task] for task in tasks))))


def type_of(folder: Path) -> str:
    """The saved model's `model_type`; nothing where it cannot be told."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config.get("model_type") or "")
    except (OSError, ValueError, AttributeError):
        return ""  # whoever loads the model says what is wrong with it


def is_for_ofa(folder: Path, tasks: Sequence[str]) -> bool:
    """Whether these tasks, checked before, are to be done by an OFA: the saved model is one, or it is neither OFA nor LaTr++
    and only an OFA could do one of them: loading it then says what is wrong."""
    kind = type_of(folder)
    return kind == "ofa" if kind in NAMES else any(models_for(task) == ("ofa",) for task in tasks)


def models_for(task: str) -> tuple[str, ...]:
    """The model types, of those that look at pictures, that can do a task."""
    if task in READERS:
        return READERS[task].models
    return {"g2p": (), "pages": ("latr",)}.get(task, ("ofa",))


def asks_of(task: str) -> str:
    """What OFA is asked for a task, one of `ofa_run.ASKS`."""
    return SCENES.get(task) or READERS[task].asks


def examples_of(
    task: str,
    data: Path | None,
    split: str | None,
    default_split: str,
    count: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> tuple[str, Iterator[Example]]:
    """The task's metric, and its examples that can be scored, one at a time, words read where the data bring none.

    Args:
        split: None: `default_split` for pages, scenes and easy-vqa; for data on disk, which have no calibration split, `val`.
        count: None: all there are; `MADE` of scenes.
        tick: called with the number of examples so far.

    Raises:
        DataError: no such split, missing or broken data.
    """
    if task == "pages" or task in SCENES:
        if data is not None:
            raise DataError(f"{data}: {task.partition('-')[0]} are made, not read; leave --data out")
        metric, found = _made(task, split or default_split, MADE if count is None else count)
    else:
        reader = READERS[task]
        metric = reader.metric
        found = read(task, data, split or ("val" if reader.on_disk else default_split))
        if reader.needs_ocr:
            found = map(read_words_of, found)
    # RefCOCO's answer is its box.
    with_answers = (example for example in found if example.answers or "box" in example.extra)
    return metric, counted(itertools.islice(with_answers, count), tick)


def _made(task: str, split: str, count: int) -> tuple[str, Iterator[Example]]:
    if task == "pages":
        from deed.data.synthetic.pages_read import read_split

        return "anls", read_split(split)
    from .scenes import METRICS, stream_of

    return METRICS[SCENES[task]], stream_of(SCENES[task], split, count)


def counted(examples: Iterator[Example], tick: Callable[[int], None] | None) -> Iterator[Example]:
    for i, example in enumerate(examples, 1):
        if tick is not None:
            tick(i)
        yield example


def read_words_of(example: Example, engine: str = "rapidocr") -> Example:
    """The example with the words that the OCR engine reads (kept on disk), and its picture turned upright."""
    from deed.ocr import read_page, turn_image

    from .documents import as_picture

    if example.words or example.image is None:
        return example
    picture = as_picture(example.image)
    read = read_page(picture, engine, cache=True)
    return replace(example, words=read.words, image=turn_image(picture, read.rotation))


def strictest(reports: Sequence[dict]) -> dict:
    """Of calibrations of one model on several tasks that with the highest threshold, the rest in `others`: each threshold
    keeps its task's promise, and so does any stricter one that was accepted for it before."""
    report = max(reports, key=lambda r: r["threshold"])
    others = [r for r in reports if r is not report]
    return {**report, "others": others} if others else report
