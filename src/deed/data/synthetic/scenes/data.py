"""The scenes data set: referring expressions, captions and questions, lazily made; splits differ in seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from PIL import Image

from deed.data.base import Example
from deed.errors import DataError

from . import captions, questions
from .compose import Box, Scene, scene
from .language import EXTREME_WORDS, NUMBERS, RELATION_WORDS, phrases
from .pictograms import KINDS, KNOWN
from .referring import Expression, refer

TASKS = ("refer", "caption", "vqa")
# In all but `unseen` only known combinations; in each scene of `unseen` one held-out combination at least, which
# expressions and questions are about.
SPLITS = ("train", "validation", "calibration", "test", "unseen")


@dataclass(frozen=True)
class SceneExample:
    """One text about one scene, in lower case.

    Attributes:
        task: one of `TASKS`.
        text: what is asked: an expression, a question, or nothing for a caption.
        answer: a caption or the answer to a question; nothing for an expression.
        box: `x0, y0, x1, y1`, px, of the thing that an expression is about (x1, y1 exclusive); otherwise None.
        references: all right answers: five or six captions, one answer to a question, nothing for an expression.
        kind: how an expression refers, or what sort of question it is; `"caption"`.
        id: `scenes/SEED/SPLIT/INDEX/TASK`.
        scene: what the picture shows, exactly.
    """

    task: str
    text: str
    answer: str
    box: Box | None
    references: tuple[str, ...]
    kind: str
    id: str
    scene: Scene

    @property
    def image(self) -> Image.Image:
        """The picture, RGB, drawn when first asked for."""
        return self.scene.image

    def as_example(self) -> Example:
        """As the other tasks' examples: the box and the task in `extra`; draws the picture."""
        extra = {"task": self.task, "box": self.box}
        return Example(self.text, list(self.references), image=self.image, id=self.id, kind=self.kind, extra=extra)


@dataclass(frozen=True)
class SceneExamples(Sequence[SceneExample]):
    """The examples of one task and split, each made when it is asked for; the same in every process.

    The three tasks' examples of one index are about the same scene. See `examples`.
    """

    task: str
    split: str
    n: int
    seed: int
    n_things: tuple[int, int]
    side: int
    rotation: int
    noise: int

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> SceneExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[SceneExample]: ...
    def __getitem__(self, index: int | slice) -> SceneExample | list[SceneExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n))]
        at = index + self.n if index < 0 else index
        if not 0 <= at < self.n:
            raise IndexError(f"no example {index} of {self.n}")
        return self._make(at)

    def _make(self, index: int) -> SceneExample:
        key = f"{self.seed}/{self.split}/{index}"
        kind: Literal["unseen", "known"] = "unseen" if self.split == "unseen" else "known"
        made = scene(key, self.n_things, self.side, kind, self.rotation, self.noise)
        rng = random.Random(f"text/{self.task}/{key}")
        name = f"scenes/{key}/{self.task}"
        if self.task == "caption":
            text = captions.caption(made, rng)
            return SceneExample("caption", "", text, None, tuple(captions.references(made)), "caption", name, made)
        if self.task == "vqa":
            asked = questions.ask(made, rng)
            return SceneExample("vqa", asked.text, asked.answer, None, (asked.answer,), asked.kind, name, made)
        told = _told(made, rng)
        return SceneExample("refer", told.text, "", told.thing.box, (), told.kind, name, made)


def _told(made: Scene, rng: random.Random) -> Expression:
    """An expression for a random thing: twice as likely for one that shares its name, where more must be said."""
    pool = made.held_out or made.things
    left = list(pool)
    names = [thing.name for thing in made.things]
    while left:
        thing = rng.choices(left, [2.0 if names.count(thing.name) > 1 else 1.0 for thing in left])[0]
        told = refer(made, rng, thing)
        if told is not None:
            return told
        left.remove(thing)
    # Twins only, one's box inside the other's in x and in y: the centers still differ.
    thing = min(pool, key=lambda thing: thing.center[0])
    return Expression(f"the leftmost {phrases(thing)[-1].text()}", thing, "extreme")


def examples(
    task: str,
    split: str,
    n: int,
    seed: int = 0,
    n_things: tuple[int, int] = (2, 5),
    side: int = 128,
    rotation: int = 8,
    noise: int = 7,
) -> SceneExamples:
    """The first `n` examples of a task and split, made lazily; there are as many as one likes.

    Args:
        task: `"refer"`, `"caption"` or `"vqa"`.
        split: one of `SPLITS`.
        n: how many.
        seed: another one gives other scenes.
        n_things, side, rotation, noise: as for `compose.scene`.

    Raises:
        DataError: an unknown task or split, a negative number; values that `compose.scene` refuses (at once).
    """
    if task not in TASKS:
        raise DataError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if n < 0:
        raise DataError(f"n must be 0 or more, got {n}")
    scene(0, n_things, side, "known", rotation, noise)
    return SceneExamples(task, split, n, seed, n_things, side, rotation, noise)


def vocabulary_texts(n: int = 2000, seed: int = 0) -> Iterator[str]:
    """Texts to train a tokenizer on: every word that scenes can use, then `n` training examples of each task.

    No picture is drawn. Answers come after their questions, as texts of their own.
    """
    for name, kind in KINDS.items():
        yield from (name, kind.plural)
    yield from (f"{color} {name}" for name, color in KNOWN)
    yield from questions.ANSWERS
    yield from (word for words in (*RELATION_WORDS.values(), *EXTREME_WORDS.values(), NUMBERS) for word in words)
    for task in TASKS:
        for example in examples(task, "train", n, seed):
            yield from (text for text in (example.text, example.answer) if text)
