"""One-liners: `deed.pipeline("translate", model=…)("Guten Morgen")`, for what Transformers 5 took out of its own pipelines.

A pipeline loads a model with its tokenizer or processor, cuts what is too long, sorts by length into batches, generates with
early exit, and puts the pieces together again. Every task is a file here; `making.py` chooses.
"""

from .base import Pipeline
from .making import pipeline

__all__ = ["Pipeline", "pipeline"]
