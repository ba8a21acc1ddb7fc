"""Questions about images with text, answered by a LaTr++: generated pages, DocVQA, TextVQA, easy-vqa and the like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from deed.constants import IGNORE_INDEX
from deed.data.base import Example
from deed.metrics.text import exact_match, field_f1
from deed.models.latr.processing_latr import stack_pictures
from deed.models.shared import pad_lists

from .image_task import ImageTask, as_picture


class DocumentTask(ImageTask):
    """A data set of questions for a LaTr++, by its metric; `pages` are made."""

    metric = "anls"
    model_types = ("latr",)

    def made(self, split: str, count: int) -> Iterator[Example]:
        """Questions about generated pages, as the OCR engine reads them."""
        from deed.data.synthetic.pages_read import read_split

        return read_split(split)

    def encode(self, processor: Any, example: Example) -> dict[str, Any]:
        """`input_ids`, `bbox`, and `pixel_values` where there is a picture; see `encode`."""
        return encode(processor, example)

    def labels(self, processor: Any, example: Example, rng: Any = None) -> list[int]:
        """Ids of an answer, end token last.

        Args:
            processor: a `LatrProcessor`.
            example: with answers.
            rng: draws one of them; None: the first.
        """
        return processor.encode_answer(rng.choice(example.answers) if rng is not None else example.answers[0])

    def collate(self, processor: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Encoded rows to a padded batch, with `labels` where they have them; see `inputs_of`."""
        batch = inputs_of(processor, rows)
        if "labels" in rows[0]:
            batch["labels"] = pad_lists([row["labels"] for row in rows], IGNORE_INDEX)
        return batch

    def right(self, answer: str, example: Example, value: float) -> bool:
        """Whether it equals an expected answer, letter case aside.

        Args:
            answer: the text.
            example: with its answers.
            value: not used: an answer that is nearly right scores, too.
        """
        return exact_match([answer], [example.answers]) == 1.0

    def acceptable(self, answer: str, example: Example, value: float) -> bool:
        """Of ANLS from one half on, below which it counts nothing; of metrics with exact answers as `right`.

        Args:
            answer: the text.
            example: with its answers.
            value: its score.
        """
        return value >= 0.5 if self.metric in ("anls", "vqa_accuracy") else self.right(answer, example, value)

    def source(self, example: Example) -> str:
        """The page, of generated ones; else as for any task."""
        return example.id.rpartition("/")[0] if self.name == "pages" else super().source(example)

    def other_scores(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
        """Exact match, and of whole pages the F1 over the fields of the JSON answers."""
        scores = {"exact_match": exact_match(answers, [example.answers for example in examples])}
        whole = [i for i, example in enumerate(examples) if example.kind == "all"]
        if whole:
            scores["field_f1"] = field_f1([answers[i] for i in whole], [examples[i].answers[0] for i in whole])
        return scores


def encode(processor: Any, example: Example) -> dict[str, Any]:
    """One example's model inputs without batch axis: `input_ids` `[length]`, `bbox` `[length, 4]`, and `pixel_values`
    `[3, height, width]` where it has a picture and the model looks at pictures."""
    ids, boxes = processor.encode(example.question, example.words)
    row: dict[str, Any] = {"input_ids": torch.tensor(ids), "bbox": torch.tensor(boxes)}
    if example.image is not None and processor.sees:
        row["pixel_values"] = processor.see([as_picture(example.image)])["pixel_values"][0]
    return row


def inputs_of(processor: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Encoded rows to a batch for `generate()`."""
    batch = processor.pad([{k: row[k].tolist() for k in ("input_ids", "bbox")} for row in rows])
    return {**batch, **stack_pictures([row.get("pixel_values") for row in rows])}
