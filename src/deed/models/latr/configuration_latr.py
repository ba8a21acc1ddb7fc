"""Configuration of LaTr++: T5's, with a ViT's inside and the sizes of the box tables."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, T5Config, ViTConfig
from transformers.configuration_utils import SubConfigSpec

from ..registration import register_model

QUESTION_PLACES = ("early", "late")


@strict
class LatrConfig(T5Config):
    """`T5Config` with, beside its fields:

    Args:
        vision_config: the ViT's configuration; None builds a model of words and boxes only.
        max_box: largest coordinate; boxes are integers on 0..max_box of the page's width and height.
        box_scale: root mean square of a fresh box table's entries. T5's own embeddings have about 1 when made from
            scratch, and about 10 in the published checkpoints.
        freeze_vision: train only the projection of the patch features, as LaTr does with a pretrained ViT.
        question: `"early"`: patches, question and words are one sequence, in which all see all. `"late"`: patches, words,
            question; the page does not see the question, so that one page is encoded once for many (`packing.py`).
        box_bias: with a late question, attention is biased by how two words' boxes lie to each other (`relative.py`).
        cell_bias: beside it, by which words head the row and the column that a word stands in, and which of them a question
            names; the cell that it asks for is marked for its answer (`cells.py`).
        copy_answers: with a late question, `generate()` keeps answers to words that stand in a row on the page, to
            `free_answers`, and to what begins with one of `open_pieces` (`spans.py`).
        free_answers: ids of answers that need not stand there, end token last.
        open_pieces: pieces after which an answer is free: those that open a JSON object.
        word_begins: pairs of pieces that spell the same letters within a word and at its beginning.
    """

    model_type = "latr"
    sub_configs_defaults: ClassVar = {"vision_config": SubConfigSpec(config_class=ViTConfig, optional=True)}

    vision_config: dict | PreTrainedConfig | None = None
    max_box: int = 1000
    box_scale: float = 0.2
    freeze_vision: bool = False
    question: str = "early"
    box_bias: bool = False
    cell_bias: bool = False
    copy_answers: bool = False
    free_answers: list | None = None
    open_pieces: list | None = None
    word_begins: list | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.question not in QUESTION_PLACES:
            raise ValueError(f"question must be one of {', '.join(QUESTION_PLACES)}, got {self.question!r}")
        if self.box_bias and self.question != "late":
            raise ValueError('box_bias takes question="late"')
        if self.cell_bias and not self.box_bias:
            raise ValueError("cell_bias takes box_bias")
        if self.copy_answers:
            if self.question != "late":
                raise ValueError('copy_answers takes question="late"')
            if None in (self.free_answers, self.open_pieces, self.word_begins):
                raise ValueError(
                    "copy_answers takes free_answers, open_pieces and word_begins (`latr.spans.rules_of`)"
                )
        super().__post_init__(**kwargs)
        register_model(self.model_type)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """This configuration; for the decoder, with the decoder's depth under `num_layers`."""
        # generate() sizes its cache by this; T5Config answers with the encoder's depth even when asked for the decoder.
        if not decoder or encoder or self.num_layers == self.num_decoder_layers:
            return self
        config = copy.copy(self)
        config.num_layers = self.num_decoder_layers  # type: ignore[assignment]
        return config


__all__ = ["LatrConfig"]
