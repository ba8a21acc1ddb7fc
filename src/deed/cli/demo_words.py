"""`deed demo --task g2p`: pronunciations (CMUdict) of words that training never saw, and of the user's own. `deed demo
--task NAME`: examples of any other task's test split, with the model given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deed.bench import compare as bench
from deed.utils.progress import Progress, track

from .demo_measure import Page, Sample
from .demo_results import FEW_THRESHOLDS, Question


class AnyTask:
    """Examples of a task's test split, told as questions and answers."""

    COUNT, TIMED = 100, 40
    THRESHOLDS: tuple[float, ...] = FEW_THRESHOLDS

    def __init__(self, task: Any) -> None:
        self.task = task

    def loaded_by(self) -> Any:
        """The task itself."""
        return self.task

    def check(self, count: int, words: Sequence[str]) -> None:
        """Anything goes."""

    def sample(self, processor: Any, count: int, words: Sequence[str], bars: Progress) -> Sample:
        """The first examples of the test split.

        Args:
            processor: encodes.
            count: how many.
            words: none.
            bars: told how far this has come.
        """
        task = self.task
        asked = []
        with bars.bar(f"reading {task.name}", total=count) as bar:
            for example in map(task.opened, track(task.examples("test", count), bar)):
                row, example = task.encode(processor, example), task.closed(example)
                told = {"question": getattr(example, "question", ""), "kind": task.by_kind(example)}
                asked.append(Question(task, example, row, told))
        if not asked:
            raise ValueError(f"{task.name} has no {task.unit}s with answers in split 'test'")
        name = task.metric.replace("_", " ")
        about = {"title": task.name, "task": task.name, "unit": task.unit, "score_name": name}
        return Sample(asked, about, {f"{task.unit}s": f"{len(asked)} of the test split"})

    def complete(self, page: Page, sample: Sample, measured: Any, judge: Any, processor: Any) -> None:
        """Nothing to add.

        Args:
            page, sample, measured, judge, processor: of the run.
        """


class Words(AnyTask):
    """Words to pronunciations."""

    COUNT = 1000  # words of the test split
    TIMED = 100  # words: the curve takes eleven answers to each
    THRESHOLDS = bench.THRESHOLDS

    def __init__(self) -> None:
        from deed.tasks.g2p import G2pTask

        super().__init__(G2pTask())

    def check(self, count: int, words: Sequence[str]) -> None:
        """Before anything is loaded.

        Raises:
            DataError: a word that is none, or more words asked for than there are.
        """
        from deed.data.readers import cmudict

        for word in words:
            cmudict.clean_word(word)
        most = len(cmudict.load_split("test"))
        if count > most:
            raise ValueError(f"--count must be at most {most}, the words of the test split, got {count}")

    def sample(self, processor: Any, count: int, words: Sequence[str], bars: Progress) -> Sample:
        """The user's words and the fixed sample.

        Args:
            processor: encodes.
            count: words of the test split.
            words: the user's.
            bars: not used: this takes no time.
        """
        from deed.data.base import Example
        from deed.data.readers import cmudict
        from deed.tasks.g2p import SEED

        task = self.task
        own = list(dict.fromkeys(map(cmudict.clean_word, words)))
        listed = cmudict.read_cmudict() if own else {}
        examples = [Example(word, listed.get(word, [])) for word in own]
        asked = []
        for i, example in enumerate([*examples, *task.examples("test", count)]):
            split = cmudict.split_of(example.question) if example.answers else None
            seen = {None: "not in the dictionary", "train": "seen in training"}.get(split, "never seen in training")
            told = {"word": example.question, "split": split, "seen": seen}
            asked.append(Question(task, example, task.encode(processor, example), told, i < len(own)))
        about = {
            "title": "CMUdict, words to pronunciations",
            "task": "g2p",
            "unit": "word",
            "score_name": "word accuracy",
        }
        return Sample(asked, about, {"words": f"{count} of the test split, seed {SEED}"})
