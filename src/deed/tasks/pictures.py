"""What an OFA is asked about pictures: the box that an expression means, captions, questions, entailment. On generated
scenes, easy-vqa, and data sets on disk (RefCOCO, COCO captions, VQAv2, SNLI-VE, OFA's own files)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from deed.constants import GREEDY, IGNORE_INDEX
from deed.data.base import Example
from deed.metrics import text as metrics
from deed.metrics.boxes import box_accuracy_each
from deed.metrics.caption_words import words
from deed.metrics.cider import DocumentFrequencies, cider_d_each, document_frequencies
from deed.modeling.model import DeedMixin
from deed.models.ofa import Candidates, OFAProcessor, allowed_tokens, build_candidates, prompts
from deed.models.shared import pad_lists

from .image_task import ImageTask, opened

ASKS = ("refer", "caption", "vqa", "snli_ve")  # what OFA is asked, each with a prompt of its own
UNITS = {"refer": "expression", "caption": "picture", "snli_ve": "sentence"}
SCENE_METRICS = {"refer": "acc_at_0.5", "caption": "cider_d", "vqa": "accuracy"}


class PictureTask(ImageTask):
    """A data set for an OFA, or one of the tasks on generated scenes (`scenes-refer`, `scenes-caption`, `scenes-vqa`).

    Attributes:
        asks: what OFA is asked, one of `ASKS`.
    """

    model_types = ("ofa",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if self.reader is None:
            self.asks = name.removeprefix("scenes-")
            self.metric = SCENE_METRICS[self.asks]
        else:
            self.asks = self.reader.asks
            if self.metric == "exact_match":  # where an answer is a word, equal to the right one is what is accurate
                self.metric = "accuracy"
        self.best = 10.0 if self.metric == "cider_d" else 1.0
        self.unit = UNITS.get(self.asks, "question")

    def made(self, split: str, count: int) -> Iterator[Example]:
        """Examples about generated scenes, each drawn when it is reached."""
        from deed.data.synthetic import scenes

        return (example.as_example() for example in scenes.examples(self.asks, split, count))

    def opened(self, example: Example) -> Example:
        """The example with its picture in memory and the picture's size beside."""
        return opened(example)

    def encode(self, processor: OFAProcessor, example: Example) -> dict[str, Any]:
        """`input_ids` and `patch_images` of an opened example; see `encode`."""
        return encode(processor, self.asks, example)

    def labels(self, processor: OFAProcessor, example: Example, rng: Any = None) -> list[int]:
        """Ids of an opened example's box, or of an answer; see `target`.

        Args:
            processor: encodes.
            example: opened.
            rng: draws one of several answers; None: the first. Of answers with confidences, which come surest first, the
                surest is taken, as in the original.
        """
        answers = example.answers[: 1 if rng is None or "confidences" in example.extra else None]
        answer = (rng.choice(answers) if rng is not None else answers[0]) if answers else ""
        return target(processor, self.asks, example, answer)

    def collate(self, processor: OFAProcessor, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Encoded rows to a padded batch. With `labels`, where there are but a few answers, also `allowed_tokens`, by which
        the loss is among those answers only, as in the original."""
        batch = inputs_of(rows, processor.tokenizer.pad_token_id)
        if "labels" in rows[0]:
            batch["labels"] = pad_lists([row["labels"] for row in rows], IGNORE_INDEX)
            closed = closed_list(processor, self.asks)
            if closed is not None:
                batch["allowed_tokens"] = allowed_tokens(batch["labels"], closed.trie)
        return batch

    def generation_options(self, model: Any, processor: OFAProcessor) -> dict[str, Any]:
        """Greedy, no longer than four bins or what the processor allows (start and end included), and held to the answers
        there are, among which an exit is then asked how sure it is."""
        options = {**GREEDY, "max_length": 6 if self.asks == "refer" else processor.max_target_length + 2}
        closed = closed_list(processor, self.asks)
        if closed is not None:
            options["prefix_allowed_tokens_fn"] = closed.prefix_allowed_tokens_fn()
            if isinstance(model, DeedMixin):
                options["confidence_over"] = "allowed"
        return options

    def original_options(self, model: Any, processor: OFAProcessor) -> dict[str, Any]:
        """Beams and limits of the original's evaluation scripts; see `models.ofa.original_settings`."""
        from deed.models.ofa import original_settings
        from deed.models.ofa.evaluation_ofa import SETTINGS

        if self.asks not in SETTINGS:
            return super().original_options(model, processor)
        tokenizer = processor.tokenizer
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        return original_settings(self.asks, closed_list(processor, self.asks), **ids)

    def answer(self, processor: OFAProcessor, tokens: Sequence[int], example: Example) -> Any:
        """The text; of `refer` the box, `x0, y0, x1, y1` in px of the example's picture, or None where there is none.

        Args:
            processor: decodes.
            tokens: generated ids.
            example: with the picture's size.
        """
        if self.asks == "refer":
            return box_of(processor, tokens, example)
        return text_of(processor, tokens)

    def score(
        self, answers: Sequence[Any], examples: Sequence[Example], corpus: DocumentFrequencies | None = None
    ) -> list[float]:
        """Each answer's score.

        Args:
            answers: of `answer`.
            examples: opened once, for the pictures' sizes.
            corpus: what captions' words are weighed by; None: these examples' references.
        """
        if self.metric == "acc_at_0.5":
            return box_accuracy_each(answers, [example.extra["box"] for example in examples])
        references = [example.answers for example in examples]
        if self.metric == "cider_d":
            return cider_d_each(answers, references, corpus)
        if self.metric == "vqa_accuracy":
            return metrics.vqa_accuracy_each(answers, references)
        if self.metric == "ofa_vqa_score":
            return metrics.ofa_vqa_score_each(answers, [example.extra["confidences"] for example in examples])
        return metrics.exact_match_each(answers, references)

    def right(self, answer: Any, example: Example, value: float) -> bool:
        """Of captions whether it is a reference word for word, else whether it scores best.

        Args:
            answer: of `answer`.
            example: with its references.
            value: its score.
        """
        return equals_reference(answer, example) if self.asks == "caption" else value >= self.best

    def other_scores(self, answers: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Of captions the share that is a reference word for word, punctuation aside."""
        if self.metric != "cider_d":
            return {}
        equal = [equals_reference(text, example) for text, example in zip(answers, examples, strict=True)]
        return {"equals_reference": sum(equal) / len(equal)}

    def calibration_score(
        self, processor: OFAProcessor, examples: Sequence[Example]
    ) -> Callable[[list[int], Mapping[str, Any]], float]:
        """Captions' words are weighed by the references of all the examples."""
        corpus = document_frequencies([e.answers for e in examples]) if self.metric == "cider_d" and examples else None

        def judge(tokens: list[int], row: Mapping[str, Any]) -> float:
            example = row["example"]
            return self.score([self.answer(processor, tokens, example)], [example], corpus)[0] / self.best

        return judge

    def row(self, processor: OFAProcessor, example: Example) -> Mapping[str, Any]:
        """A row that keeps no tensor of its picture; see `Row`."""
        return Row(self, processor, example)


class Row(Mapping[str, Any]):
    """An encoded example: `input_ids`, `patch_images`, `example` and `task`. Its picture becomes a tensor each time it is
    asked for: those of a whole calibration set would not fit in memory."""

    def __init__(self, task: PictureTask, processor: OFAProcessor, example: Example) -> None:
        first = opened(example)
        self._processor = processor
        self._kept = {
            "input_ids": task.encode(processor, first)["input_ids"],
            "example": replace(example, extra=first.extra),
            "task": task,
        }

    def __getitem__(self, key: str) -> Any:
        if key == "patch_images":
            return self._processor.see([opened(self._kept["example"]).image])["patch_images"][0]
        return self._kept[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._kept, "patch_images"))

    def __len__(self) -> int:
        return len(self._kept) + 1


def encode(processor: OFAProcessor, asks: str, example: Example) -> dict[str, Any]:
    """One opened example's model inputs without batch axis: `input_ids` `[length]` and `patch_images` `[3, side, side]`.

    Args:
        processor: encodes.
        asks: one of `ASKS`.
        example: with its picture in memory.
    """
    text, extra = example.question, example.extra
    if asks == "caption":
        batch = processor.caption(example.image)
    elif asks == "refer":
        batch = processor.refer(example.image, text)
    elif asks == "snli_ve":
        batch = processor.entail(example.image, text, extra.get("caption"))
    elif asks == "vqa":
        batch = processor.vqa(example.image, text, objects=extra.get("objects") or None)
    else:
        raise ValueError(f"asks must be one of {', '.join(ASKS)}, got {asks!r}")
    return {"input_ids": batch["input_ids"][0], "patch_images": batch["patch_images"][0]}


def inputs_of(rows: Sequence[Mapping[str, Any]], pad: int = 1) -> dict[str, torch.Tensor]:
    """Encoded rows to a batch for `generate()`."""
    input_ids = pad_lists([row["input_ids"].tolist() for row in rows], pad)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != pad).long(),
        "patch_images": torch.stack([row["patch_images"] for row in rows]),
    }


def target(processor: OFAProcessor, asks: str, example: Example, answer: str = "") -> list[int]:
    """Ids to train on, end token last.

    Args:
        processor: encodes.
        asks: one of `ASKS`.
        example: opened; of `refer`, its box is the target.
        answer: what the model should say, for the other tasks.
    """
    if asks == "refer":
        box = processor.encode_box(example.extra["box"], example.extra["size"])
        return [*box, int(processor.tokenizer.eos_token_id)]
    if asks == "caption":
        return processor.encode_answers([prompts.caption_target(answer, processor.max_target_length)])[0]
    return processor.encode_answers([prompts.entailment_target(answer) if asks == "snli_ve" else answer])[0]


def closed_list(processor: OFAProcessor, asks: str) -> Candidates | None:
    """The answers there are, where there are but a few; only they are told apart in training and in answering."""
    return build_candidates(prompts.ENTAILMENT.values(), processor) if asks == "snli_ve" else None


def box_of(processor: OFAProcessor, ids: Sequence[int], example: Example) -> tuple[float, ...] | None:
    """The box in generated ids, in pixels of the example's picture; None where they have none.

    Args:
        processor: knows which ids are bins.
        ids: generated.
        example: with its picture, or the picture's size in `extra`.
    """
    size: Any = example.extra.get("size") or example.image.size  # type: ignore[union-attr]
    return processor.boxes([list(ids)], [size])[0]


def text_of(processor: OFAProcessor, ids: Sequence[int]) -> str:
    """Generated ids as text."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def equals_reference(text: str, example: Example) -> bool:
    """Whether a caption is one of the example's word for word, punctuation aside."""
    return words(text) in map(words, example.answers)
