"""What a task is. Every verb of the command line loops over this, whatever the task:

    for example in task.examples("test"):            # held-out examples, with their right answers
        row = task.encode(processor, example)        # what the model reads
        tokens = …                                   # what the model generates
        answer = task.answer(processor, tokens, example)
    task.score(answers, examples)                    # a number per example, 0..task.best

A task of your own derives from `Task` and says at least where its examples come from; see docs/tasks.md. Which tasks there
are, and which model does which, is in `task.py`. This module needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deed.errors import DataError
from deed.utils.saved_model import SavedModel, read_saved_model

if TYPE_CHECKING:
    import random

_MODELS = {"latr": "a LaTr++", "ofa": "an OFA", "t5": "a small T5 for words", "whisper": "a Whisper"}


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
