"""What a task is, and which tasks there are. Every verb of the command line loops over this, whatever the task:

    for example in task.examples("test"):            # held-out examples, with their right answers
        row = task.encode(processor, example)        # what the model reads
        tokens = …                                   # what the model generates
        answer = task.answer(processor, tokens, example)
    task.score(answers, examples)                    # a number per example, 0..task.best

A task of your own derives from `Task`, says at least where its examples come from, and is made known under a name by
`deed.register_task` (or by an entry point of the group `deed.tasks`); see docs/tasks.md. Neither this module nor the
names it knows need PyTorch; a task's own module is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deed.data.registry import READERS
from deed.errors import DataError
from deed.utils.saved_model import SavedModel, read_saved_model

if TYPE_CHECKING:
    import random

GROUP = "deed.tasks"  # entry points: name = module:class


class Loaded(NamedTuple):
    """A model and what turns examples into its inputs: a tokenizer or a processor."""

    model: Any
    processor: Any


class Task:
    """A task; the defaults are those of text to text, with examples of the kind `deed.data.base.Example`.

    A subclass has to say where its examples come from (`examples`). What it leaves out is as here: the folder's own
    tokenizer encodes `example.question`, answers are texts, and the metric is one of `deed.metrics.text`.

    Attributes:
        name: as `--task` has it.
        metric: name of the score, a key of every report. Without an own `score`: a function of `deed.metrics.text`.
        best: the metric's largest value, by which calibration divides it.
        unit: what one example is called: "word", "question" …
        model_types: Transformers' names of the models that can do it; empty: any.
        validation_split, calibration_split: names of those splits, where a verb is told none.
        reads_data: whether `data` says where the examples are.
        skip_missing: leave out examples whose picture is missing, which is else an error; set by the verbs.

    Example:
        ```python
        class Plural(deed.Task):
            unit = "word"

            def examples(self, split, count=None, data=None):
                from deed.data.base import Example

                return [Example("cat", ["cats"]), Example("ox", ["oxen"])][:count]

        task = Plural()
        assert task.score(["cats", "oxes"], task.examples("test")) == [1.0, 0.0]
        ```
    """

    name: str = ""
    metric: str = "exact_match"
    best: float = 1.0
    unit: str = "question"
    model_types: tuple[str, ...] = ()
    validation_split: str = "validation"
    calibration_split: str = "calibration"
    reads_data: bool = True
    skip_missing: bool = False

    def load(self, folder: Path, plain: bool = False) -> Loaded:
        """The saved model and its tokenizer or processor.

        Args:
            folder: written by `save_pretrained`.
            plain: a model without early exit is welcome too.

        Raises:
            DeedLoadError: not such a folder, or a damaged one.
            DataError: a model of a type that cannot do the task.
        """
        from .loading import load_saved

        check_model(self, read_saved_model(folder))
        return load_saved(folder, plain)

    def examples(self, split: str, count: int | None = None, data: Path | None = None) -> Iterable[Any]:
        """Examples with right answers, one at a time.

        Args:
            split: `"train"`, `"validation"`, `"calibration"`, `"test"`, or what else the data set has.
            count: the first so many; None: all.
            data: the file or folder of a data set on disk.

        Raises:
            DataError: no such split; missing or broken data.
        """
        raise NotImplementedError(f"task {self.name!r} has no examples: define examples(split, count, data)")

    def opened(self, example: Any) -> Any:
        """The example with what lies on disk in memory, as `encode` needs it."""
        return example

    def closed(self, example: Any) -> Any:
        """The opened example without what only `encode` needs, so that many fit in memory."""
        return example

    def encode(self, processor: Any, example: Any) -> dict[str, Any]:
        """An opened example's model inputs, tensors without batch axis.

        Args:
            processor: as `load` gave it.
            example: opened; of a text task, `example.question` is encoded.
        """
        import torch

        return {"input_ids": torch.tensor(tokenizer_of(processor)(example.question).input_ids)}

    def labels(self, processor: Any, example: Any, rng: random.Random | None = None) -> list[int]:
        """Ids to train on, end token last.

        Args:
            processor: as `load` gave it.
            example: opened.
            rng: draws one of several right answers; None: the first.
        """
        answer = rng.choice(example.answers) if rng is not None else example.answers[0]
        return list(tokenizer_of(processor)(text_target=answer).input_ids)

    def collate(self, processor: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Encoded rows to a padded batch; `labels`, where rows have them, are padded with -100.

        Args:
            processor: as `load` gave it.
            rows: of `encode`, each with or without `labels`.
        """
        from .answering import pad_rows

        return pad_rows(rows, tokenizer_of(processor).pad_token_id)

    def generation_options(self, model: Any, processor: Any) -> dict[str, Any]:
        """Options of `generate()` that answers are made with: greedy."""
        from deed.constants import GREEDY

        return dict(GREEDY)

    def original_options(self, model: Any, processor: Any) -> dict[str, Any]:
        """Options of `generate()` with which the model's authors evaluate it on this task.

        Raises:
            DataError: there are none.
        """
        raise DataError(
            f"--original-settings are those of OFA's authors for vqa, captions and boxes; {self.name} has none"
        )

    def answer(self, processor: Any, tokens: Sequence[int], example: Any) -> Any:
        """Generated tokens as an answer: a text, or what else `score` takes.

        Args:
            processor: as `load` gave it.
            tokens: new ones, up to and with the end token.
            example: closed.
        """
        return tokenizer_of(processor).decode(list(tokens), skip_special_tokens=True)

    def score(self, answers: Sequence[Any], examples: Sequence[Any]) -> list[float]:
        """Each answer's score by the task's metric, 0..`best`."""
        from deed.metrics import text

        return getattr(text, f"{self.metric}_each")(answers, [example.answers for example in examples])

    def other_scores(self, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        """Further scores over all the examples, for reports."""
        return {}

    def right(self, answer: Any, example: Any, value: float) -> bool:
        """Whether an answer is right, where only yes or no is told.

        Args:
            answer: of `answer`.
            example: closed.
            value: its score.
        """
        return value >= self.best

    def acceptable(self, answer: Any, example: Any, value: float) -> bool:
        """Whether an answer counts as right where its confidence is calibrated; as `right`, where the metric knows no
        nearly right ones.

        Args:
            answer: of `answer`.
            example: closed.
            value: its score.
        """
        return self.right(answer, example, value)

    def source(self, example: Any) -> str:
        """What an example is about, the same for those about one picture or page: they are kept together where examples
        are divided. Else each has its own."""
        image, name = getattr(example, "image", None), getattr(example, "id", "")
        return str(image) if isinstance(image, (str, Path)) else name or repr(getattr(example, "question", example))

    def by_kind(self, example: Any) -> str:
        """What kind of example it is, for tables by kind; empty: no kind."""
        return getattr(example, "kind", "")

    def calibration_score(
        self, processor: Any, examples: Sequence[Any]
    ) -> Callable[[list[int], Mapping[str, Any]], float]:
        """What `deed.calibrate` and `deed.record_curve` score by: generated tokens and a row of `row` to [0, 1].

        Args:
            processor: as `load` gave it.
            examples: all that will be scored, closed; for metrics that weigh an answer by the others' references.
        """

        def judge(tokens: list[int], row: Mapping[str, Any]) -> float:
            example = row["example"]
            return self.score([self.answer(processor, tokens, example)], [example])[0] / self.best

        return judge

    def row(self, processor: Any, example: Any) -> Mapping[str, Any]:
        """An example as `deed.calibrate` takes it: its model inputs, itself (closed) as `example`, and the task."""
        example = self.opened(example)
        return {**self.encode(processor, example), "example": self.closed(example), "task": self}


def tokenizer_of(processor: Any) -> Any:
    """A processor's tokenizer, or the tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


# Registry. Built-in tasks: by name, then by the model type that does it, "module:class"; made with the task's name.
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
_DEFAULTS = {
    "latr": "pages",
    "ofa": "scenes",
    "whisper": "speech",
}  # where no task is named; other models are asked for g2p
_MODELS = {"latr": "a LaTr++", "ofa": "an OFA", "t5": "a small T5 for words", "whisper": "a Whisper"}
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


def check_model(task: Task, saved: SavedModel, name: str | None = None) -> None:
    """Whether a saved model is of a type that can do a task.

    Args:
        task: whose `model_types` count.
        saved: of `read_saved_model`.
        name: what the task was called; None: its own name.

    Raises:
        DataError: it is not.
    """
    if not task.model_types or saved.model_type in task.model_types or not saved.model_type:
        return
    wanted = " or ".join(_MODELS.get(kind, f"a {kind} model") for kind in task.model_types)
    held = {"t5": "a t5 model"}.get(saved.model_type) or _MODELS.get(saved.model_type, f"a {saved.model_type} model")
    raise DataError(f"--task {name or task.name} needs {wanted}; {saved.folder} holds {held}")
