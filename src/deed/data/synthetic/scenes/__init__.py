"""Scenes: pictograms composed at random, with referring expressions, captions and questions; no downloads."""

from .compose import Scene, Thing, draw, scene
from .data import SPLITS, TASKS, SceneExample, SceneExamples, examples, vocabulary_texts
from .pictograms import COLORS, HELD_OUT, NAMES
from .questions import ANSWERS

__all__ = [
    "ANSWERS",
    "COLORS",
    "HELD_OUT",
    "NAMES",
    "SPLITS",
    "TASKS",
    "Scene",
    "SceneExample",
    "SceneExamples",
    "Thing",
    "draw",
    "examples",
    "scene",
    "vocabulary_texts",
]
