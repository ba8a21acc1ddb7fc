"""Which tasks there are, by name, and which saved model is for which.

A task of your own (`protocol.py` says what it consists of) is made known under a name by `deed.register_task`, or by an entry
point of the group `deed.tasks`; see docs/tasks.md. Neither this module nor the names it knows need PyTorch; a task's own
module is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from deed.data.registry import READERS
from deed.errors import DataError
from deed.utils.saved_model import read_saved_model

from .protocol import Loaded, Task, check_model, tokenizer_of

__all__ = [
    "GROUP",
    "Loaded",
    "Task",
    "check_model",
    "get_task",
    "register_task",
    "task_for",
    "task_names",
    "tasks_of",
    "tokenizer_of",
]

GROUP = "deed.tasks"  # entry points: name = module:class

# Built-in tasks: by name, then by the model type that does it, "module:class"; made with the task's name.
_G2P, _DOCUMENT, _DEBIAN, _PICTURE, _SPEECH = (
    "deed.tasks.g2p:G2pTask",
    "deed.tasks.documents:DocumentTask",
    "deed.tasks.debian:DebianTask",
    "deed.tasks.pictures:PictureTask",
    "deed.tasks.speech:SpeechTask",
)
_SPOKEN = ("speech", *(f"speech-{kind}" for kind in ("en", "es", "fr", "it", "ru", "mixed")))
_BUILT_IN: dict[str, dict[str, str]] = {
    "g2p": {"t5": _G2P},
    "pages": {"latr": _DOCUMENT},
    **{name: {t: {"latr": _DOCUMENT, "ofa": _PICTURE}[t] for t in reader.models} for name, reader in READERS.items()},
    "debian": {"latr": _DEBIAN},
    "scenes": {},
    **{f"scenes-{asks}": {"ofa": _PICTURE} for asks in ("refer", "caption", "vqa")},
    **{name: {"whisper": _SPEECH} for name in _SPOKEN},
}
_PARTS = {"scenes": ("scenes-refer", "scenes-caption", "scenes-vqa", "easyvqa")}  # names that stand for several
# Where no task is named; other models are asked for g2p.
_DEFAULTS = {"latr": "pages", "ofa": "scenes", "whisper": "speech"}
_OWN: dict[str, type[Task]] = {}


def register_task(name: str, task: type | None = None) -> Any:
    """Make a task known under a name, for `--task` of every verb: `register_task("mine", MyTask)`, or as a decorator.

    Args:
        name: as `--task` has it; a task registered before under this name is replaced.
        task: a class, made without arguments; what it lacks of `Task`, it gets from there. None: a decorator is returned.

    Returns:
        The class, as it was given.

    Raises:
        ValueError: a name that is empty, or that a task of deed itself has.
        TypeError: not a class, or one that has no `examples`.

    Example:
        ```python
        from deed.data.base import Example

        @deed.register_task("shout")
        class Shout(deed.Task):
            def examples(self, split, count=None, data=None):
                yield from [Example("cat", ["CAT"]), Example("dog", ["DOG"])][:count]

        # deed train --from MODEL --task shout, deed evaluate MODEL --task shout …
        ```
    """
    if not name or not isinstance(name, str):
        raise ValueError(f"a task needs a name, got {name!r}")
    if name in _BUILT_IN:
        raise ValueError(f"{name!r} is a task of deed itself; take another name")
    if task is None:
        return lambda cls: register_task(name, cls)
    _OWN[name] = _as_task(name, task)
    return task


def _as_task(name: str, cls: Any) -> type[Task]:
    if not isinstance(cls, type):
        raise TypeError(f"task {name!r} must be a class, got {cls!r}")
    if getattr(cls, "examples", Task.examples) is Task.examples:
        raise TypeError(f"task {name!r} has no examples: define examples(self, split, count=None, data=None)")
    return cls if issubclass(cls, Task) else type(cls.__name__, (cls, Task), {})


def task_names() -> list[str]:
    """All tasks there are: deed's own, those registered, those of installed packages."""
    return list(dict.fromkeys([*_BUILT_IN, *_OWN, *(point.name for point in entry_points(group=GROUP))]))


def get_task(name: str, model_type: str | None = None) -> Task:
    """The task of a name.

    Args:
        name: one of `task_names()`, or `module:Class` of a task that is not registered (the current folder counts).
        model_type: of several ways to do it, the one for this type of model.

    Raises:
        DataError: an unknown name, one that stands for several tasks, or a class that cannot be imported.
    """
    if name in _OWN:
        task: Task = _OWN[name]()
    elif places := _BUILT_IN.get(name):
        return _import(places.get(model_type or "") or next(iter(places.values())))(name)
    elif points := [point for point in entry_points(group=GROUP) if point.name == name]:
        task = _as_task(name, _import(points[0].value))()
    elif ":" in name:
        task = _as_task(name, _import(name, here=True))()
    else:
        raise DataError(f"--task must be one of {', '.join(task_names())}, got {name!r}")
    task.name = name
    return task


def _import(place: str, here: bool = False) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = place.partition(":")
    if here and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"the task {place} cannot be imported: {error}") from None


def tasks_of(folder: Path, names: Sequence[str] | None = None, split: str | None = None) -> list[Task]:
    """The tasks that a saved model is asked to do, `scenes` as its parts; without names, those that it is for.

    Args:
        folder: with a saved model, which is not loaded.
        names: as `--task` has them.
        split: of `unseen`, which easy-vqa does not have, `scenes` leaves it out.

    Raises:
        DeedLoadError: not a folder with a saved model.
        DataError: an unknown task, or one that this model cannot do.
    """
    saved = read_saved_model(folder)
    given = list(names or [_DEFAULTS.get(saved.model_type, "g2p")])
    tasks: dict[str, Task] = {}
    for name in given:
        parts = _PARTS.get(name, (name,))
        for part in parts:
            if split != "unseen" or len(parts) == 1 or part != "easyvqa":
                tasks[part] = get_task(part, saved.model_type)
                check_model(tasks[part], saved, name)
    return list(tasks.values())


def task_for(folder: Path, name: str | None = None) -> Task:
    """The one task that a saved model is asked to do; see `tasks_of`.

    Raises:
        DataError: also where the name, or the model's own, stands for several tasks.
    """
    tasks = tasks_of(folder, [name] if name else None)
    if len(tasks) > 1:
        raise DataError(f"name one of the tasks {', '.join(task.name for task in tasks)}")
    return tasks[0]
