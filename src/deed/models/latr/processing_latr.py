"""Processor of LaTr++: a question, OCR words with boxes and an image to the model's inputs.

The text is `question: {question} context: {words}`, as the public T5 document readers have it; the question's tokens get
the box [0, 0, 0, 0], the end token [0, 0, 1000, 1000]. LaTr repeats a word's box for each of its pieces; here each piece
gets its share of the word's width, by its letters, so that their order can be seen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from deed.constants import IGNORE_INDEX

from ..pictures import picture_list, rgb_picture
from ..processing import CheckedProcessor, check_count
from ..shared import pad_lists
from .configuration_latr import QUESTION_PLACES

NO_BOX, PAGE_BOX = (0, 0, 0, 0), (0, 0, 1000, 1000)
_CACHED_WORDS = 200_000
_QUOTED = re.compile(r"(?<!\S)([\"“])(?=[^\s\"”])")  # the mark that opens a quotation


class LatrProcessor(CheckedProcessor):
    """Wraps a tokenizer and an image processor.

    Args:
        image_processor: e.g. `ViTImageProcessorPil`.
        tokenizer: a T5 tokenizer, or any whose tokens of a word do not depend on its neighbours.
        max_length: tokens of question and words together, end token included; further words are cut off.
        sees: False for a model without a ViT: pictures are then refused.
        question: `"early"`: the question stands before the words, `"late"`: behind them, as the model's configuration says.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_length: int = 512,
        sees: bool = True,
        question: str = "early",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        if question not in QUESTION_PLACES:
            raise ValueError(f"question must be one of {', '.join(QUESTION_PLACES)}, got {question!r:.80}")
        self.question = question
        if not isinstance(sees, bool):
            raise ValueError(f"sees must be true or false, got {sees!r:.80}")
        self.max_length, self.sees = check_count("max_length", max_length, least=2), sees
        self._pieces: dict[str, tuple[list[int], list[tuple[float, float]]]] = {}

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a batch may hold."""
        return ["input_ids", "attention_mask", "bbox", "pixel_values", "pixel_mask"]

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        words: Sequence[Any] | None = None,
        boxes: Sequence[Any] | None = None,
        text_target: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """One question or a batch of them.

        Args:
            images: a picture (file, `PIL.Image.Image`, array or tensor: `pictures.rgb_picture`), or per question one or
                None, or `[questions, …]` as one array; None for no pictures at all.
            text: the question, or a list of them.
            words: per question its OCR words: strings with `boxes` beside them, or `(text, box)` pairs.
            boxes: per question a box `[x0, y0, x1, y1]` per word, numbers on 0..1000, as lists, an array or a tensor;
                corners in the wrong order are put right.
            text_target: answers; become `labels`, padded with -100.
            kwargs: for the image processor.

        Returns:
            `input_ids`, `attention_mask` `[batch, length]`, `bbox` `[batch, length, 4]`; with images `pixel_values`
            `[batch, 3, height, width]` and, where some question has none, `pixel_mask` `[batch]`; with answers `labels`.

        Raises:
            ValueError: lists of unequal length, boxes off the page, images for a model without a ViT.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        if text is None:
            raise ValueError("give the question as text=")
        single = isinstance(text, str)
        questions: list[str] = [text] if isinstance(text, str) else list(text)
        n = len(questions)
        pages = [words] if single and words is not None else words
        page_boxes = [boxes] if single and boxes is not None else boxes
        pictures = picture_list(images, n, "questions")
        for name, values in (("words", pages), ("boxes", page_boxes)):
            if values is not None and len(values) != n:
                raise ValueError(f"{n} questions, but {name} for {len(values)}")
        encoded = []
        for i, question in enumerate(questions):
            page = pair_words(pages[i] if pages is not None else [], page_boxes[i] if page_boxes is not None else None)
            encoded.append(self.encode(question, page))
        batch = self.pad([{"input_ids": ids, "bbox": places} for ids, places in encoded])
        if pictures is not None and any(p is not None for p in pictures):
            batch.update(self.see(pictures, **kwargs))
        if text_target is not None:
            targets = [text_target] if isinstance(text_target, str) else list(text_target)
            if len(targets) != n:
                raise ValueError(f"{n} questions, but text_target for {len(targets)}")
            batch["labels"] = pad_lists([self.encode_answer(t) for t in targets], IGNORE_INDEX)
        return BatchFeature(batch)

    def encode(self, question: str, words: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], list[Any]]:
        """Token ids and their boxes, not padded, cut to `max_length`."""
        if self.question == "late":
            asked = self.encode_question(question)[: self.max_length]
            ids, places = self.encode_page(words, self.max_length - len(asked))
            return [*ids, *asked], [*places, *[NO_BOX] * len(asked)]
        room = self.max_length - 1
        asked = self.pieces(f"question: {question} context:")[0][:room]
        ids, places = self.encode_page(words, room - len(asked))
        return [*asked, *ids, self.tokenizer.eos_token_id], [*[NO_BOX] * len(asked), *places, PAGE_BOX]

    def encode_question(self, question: str) -> list[int]:
        """Token ids of a late question, end token last; they have no place.

        A word in quotes gets the pieces that it has on the page, where it stands alone: its piece for the beginning of a word,
        too, which a mark before it would take from it.
        """
        asked = _QUOTED.sub(r"\1 ", question)
        return [*self.pieces(asked)[0], self.tokenizer.eos_token_id]

    def encode_page(self, words: Sequence[tuple[str, Sequence[int]]], room: int) -> tuple[list[int], list[Any]]:
        """Token ids of words and their boxes, as many words as go into `room` tokens."""
        ids: list[int] = []
        places: list[Any] = []
        for word, box in words:
            piece_ids, shares = self.pieces(word)
            if len(ids) + len(piece_ids) > room:
                break
            ids += piece_ids
            x0, y0, x1, y1 = box
            width = x1 - x0
            if self.question == "late":
                y1 = y1 or 1  # a box of zeros would make it a token of the question
            places += [(x0 + round(start * width), y0, x0 + round(stop * width), y1) for start, stop in shares]
        return ids, places

    def pieces(self, text: str) -> tuple[list[int], list[tuple[float, float]]]:
        """Ids of a text without an end token, and where in it each begins and ends, on 0..1 of its letters. Kept, since
        words repeat."""
        known = self._pieces.get(text)
        if known is None:
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            tokens = self.tokenizer.convert_ids_to_tokens(ids)
            # "▁" marks the beginning of a word and takes no room of it.
            ends = list(itertools.accumulate(_letters(token) for token in tokens))
            total = max(1, ends[-1]) if ends else 1
            known = ids, [(a / total, b / total) for a, b in zip([0, *ends], ends, strict=False)]
            if len(self._pieces) >= _CACHED_WORDS:
                self._pieces.clear()
            self._pieces[text] = known
        return known

    def encode_answer(self, answer: str) -> list[int]:
        """Label ids of an answer, end token last."""
        return [*self.tokenizer(answer, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]

    def pad(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Encoded rows to `input_ids`, `attention_mask` and `bbox`, padded at the right."""
        ids = pad_lists([row["input_ids"] for row in rows], self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        bbox = torch.zeros(*ids.shape, 4, dtype=torch.long)
        for i, row in enumerate(rows):
            bbox[i, : len(row["bbox"])] = torch.tensor(row["bbox"], dtype=torch.long)
        if bbox.min() < 0 or bbox.max() > 1000:
            raise ValueError("boxes must lie on 0..1000 of the page's width and height")
        return {"input_ids": ids, "attention_mask": mask, "bbox": bbox}

    def see(self, pictures: Sequence[Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Pictures, some of which may be None, to `pixel_values` and, if some are None, `pixel_mask`."""
        if not self.sees:
            raise ValueError("this model has no ViT; leave images out")
        data_format = kwargs.pop("input_data_format", None)
        given = [p for p in pictures if p is not None]
        if kwargs.get("do_rescale") is False and all(_on_one(p) for p in given):
            kwargs.pop("do_rescale")  # on 0..1 already; here all pictures become bytes, and are scaled back
        there = [rgb_picture(p, data_format=data_format) for p in given]
        pixels = self.image_processor(there, return_tensors="pt", **kwargs)["pixel_values"]
        found = iter(pixels)
        return stack_pictures([None if p is None else next(found) for p in pictures])


def _letters(token: str) -> int:
    """How many letters of its word a piece stands for; a byte ("<0xE2>") is taken for one."""
    return 1 if len(token) == 6 and token.startswith("<0x") else len(token.replace("▁", ""))


def stack_pictures(pixels: Sequence[torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """Pictures `[3, height, width]`, some of which may be None, to `pixel_values` and, if some are None, `pixel_mask`;
    nothing where all are."""
    first = next((p for p in pixels if p is not None), None)
    if first is None:
        return {}
    values = {"pixel_values": torch.stack([torch.zeros_like(first) if p is None else p for p in pixels])}
    if any(p is None for p in pixels):
        values["pixel_mask"] = torch.tensor([int(p is not None) for p in pixels])
    return values


def _on_one(picture: Any) -> bool:
    return "float" in str(getattr(picture, "dtype", ""))


def pair_words(words: Sequence[Any], boxes: Any) -> list[tuple[str, Any]]:
    """Words as `(text, box)`, from strings with boxes beside them or from pairs.

    Args:
        words: strings, or `(text, box)` pairs.
        boxes: a box per word, as lists, `[words, 4]` array or tensor; None where the words are pairs.

    Returns:
        Boxes as tuples of integers `x0 <= x1`, `y0 <= y1` on 0..1000; others are rounded, and swapped corners put right.

    Raises:
        ValueError: words without boxes, not as many boxes as words, not four numbers, or off the page.
    """
    if boxes is None:
        if any(isinstance(w, str) or len(w) != 2 for w in words):
            raise ValueError("words need boxes: pass boxes=, or words as (text, [x0, y0, x1, y1]) pairs")
        words, boxes = [w[0] for w in words], [w[1] for w in words]
    if len(words) != len(boxes):
        raise ValueError(f"{len(words)} words, but {len(boxes)} boxes")
    return list(zip(words, _page_boxes(boxes), strict=True)) if len(words) else []


def _page_boxes(boxes: Any) -> list[tuple[int, ...]]:
    if hasattr(boxes, "detach"):
        boxes = boxes.detach().cpu().tolist()
    try:
        values = np.array([[float(x) for x in box] for box in boxes])
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.ndim != 2 or values.shape[1] != 4 or not np.isfinite(values).all():
        raise ValueError("a box is four numbers x0, y0, x1, y1 on 0..1000; one of boxes is not")
    if values.min() < 0 or values.max() > 1000:
        raise ValueError("boxes must lie on 0..1000 of the page's width and height")
    corners = np.sort(np.round(values).astype(int).reshape(-1, 2, 2), axis=1)
    return [tuple(box) for box in corners.reshape(-1, 4).tolist()]


__all__ = ["LatrProcessor", "pair_words"]
