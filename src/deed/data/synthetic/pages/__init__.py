"""Pages: business documents made up at random, with questions about them; known and unseen layouts, no downloads."""

from .data import SPLITS, examples_of, image_of, make_page, one_question, page_of, simulated
from .draft import Page, Rule, Text, main_keys
from .layouts import KNOWN
from .making import Layout
from .questions import ask
from .render import render
from .simulate import ocr_words, sketch
from .unseen import UNSEEN
from .values import KEYS, LONG, value
from .wording import vocabulary_words

__all__ = [
    "KEYS",
    "KNOWN",
    "LONG",
    "SPLITS",
    "UNSEEN",
    "Layout",
    "Page",
    "Rule",
    "Text",
    "ask",
    "examples_of",
    "image_of",
    "main_keys",
    "make_page",
    "ocr_words",
    "one_question",
    "page_of",
    "render",
    "simulated",
    "sketch",
    "value",
    "vocabulary_words",
]
