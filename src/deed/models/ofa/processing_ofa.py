"""Processor of OFA: pictures and prompts to the model's inputs, answers to labels, and generated ids back to words and boxes.

Pictures are resized to a square, their shape not kept, with Pillow's bicubic filter. What the model is told for each task
is in `prompts.py`, boxes as tokens in `bins.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import BatchFeature

from deed.constants import IGNORE_INDEX

from ..pictures import picture_list, rgb_picture
from ..processing import CheckedProcessor, check_count
from ..shared import pad_lists
from . import prompts as wording
from .bins import bins_to_box, box_to_bins
from .tokenization_ofa import count_tokens

PROMPT_TYPES = ("none", "src", "prev_output")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def build_image_processor(size: int, imagenet_mean_and_std: bool = False) -> Any:
    """Pillow's bicubic filter to `size` x `size`, scaled to -1..1, or by ImageNet's mean and deviation."""
    from transformers import ViTImageProcessorPil

    values: dict[str, Any] = IMAGENET if imagenet_mean_and_std else HALF
    return ViTImageProcessorPil(size={"height": size, "width": size}, resample=3, **values)  # 3: bicubic


class OFAProcessor(CheckedProcessor):
    """Wraps an image processor and a tokenizer (`build_image_processor`, `tokenization_ofa.py`).

    Args:
        image_processor: to squares, all of one size.
        tokenizer: with OFA's layout of ids.
        max_target_length: tokens of an answer; longer ones are cut.
        max_image_size: the coordinate that the last location bin stands for; None: the picture's size. Released models:
            512, whatever the size.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_target_length: int = 30,
        max_image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_target_length = check_count("max_target_length", max_target_length)
        self.max_image_size = None if max_image_size is None else check_count("max_image_size", max_image_size)
        self.first_bin, self.n_bins = count_tokens(tokenizer, "bin")

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a batch may hold."""
        return ["input_ids", "attention_mask", "patch_images", "patch_masks"]

    @property
    def image_size(self) -> int:
        """Side of the square that pictures are resized to, in pixels."""
        return int(self.image_processor.size["height"])

    # -- to the model ---------------------------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        text_target: str | Sequence[str] | None = None,
        prompt_type: str = "none",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Whole prompts; the methods below word those of each task.

        Args:
            images: a picture (file, `PIL.Image.Image`, array or tensor: `pictures.rgb_picture`), or per prompt one or None,
                or `[prompts, …]` as one array; None for no pictures at all.
            text: the prompt or a list of them; a space is put before where there is none.
            text_target: answers, with the same space before them; become `labels`.
            prompt_type: what the decoder is told before it answers: `"none"` (only `<s>`), `"prev_output"` (the prompt),
                `"src"` (the prompt and its `</s>`).

        Returns:
            `input_ids`, `attention_mask` `[batch, length]`; with images `patch_images` `[batch, 3, size, size]` and
            `patch_masks` `[batch]` bool; with answers `labels` `[batch, length]`, end token last, -100 where nothing
            counts. With a prompt type also `decoder_input_ids`: with answers the prompt and the answer, the labels
            counting only the answer; without answers the prompt, for `generate()`.

        Raises:
            ValueError: lists of unequal length, an unknown prompt type, or decoder prompts of different lengths without
                answers: padding them would move their positions.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        texts = _listed(text, "text")
        targets = None if text_target is None else self.encode_answers(_same(text_target, len(texts), "text_target"))
        return self.batch(images, texts, targets, prompt_type)

    def vqa(
        self,
        images: Any,
        questions: str | Sequence[str],
        answers: str | Sequence[str] | None = None,
        objects: Any = None,
        prompt_type: str = "none",
    ) -> BatchFeature:
        """Visual question answering.

        Args:
            images: see `__call__`.
            questions: one or a list; cleaned as the original does.
            answers: one or a list; become `labels`.
            objects: what a detector found, per question a list of names, `"dog&&ball"`, or None.
            prompt_type: see `__call__`.
        """
        asked = _listed(questions, "questions")
        found = [None] * len(asked)
        if objects is not None:
            found = [objects] if isinstance(questions, str) else _same(objects, len(asked), "objects")  # type: ignore[list-item]
        texts = [wording.vqa(q, o) for q, o in zip(asked, found, strict=True)]
        return self(images, texts, answers if answers is None else _same(answers, len(asked), "answers"), prompt_type)

    def caption(self, images: Any, captions: str | Sequence[str] | None = None) -> BatchFeature:
        """Captioning. `captions` are cleaned as targets: no punctuation, at most `max_target_length` words."""
        many = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        pictures = list(images) if many else [images]
        targets = None
        if captions is not None:
            words = [
                wording.caption_target(c, self.max_target_length) for c in _same(captions, len(pictures), "captions")
            ]
            targets = self.encode_answers(words, cut=False)
        return self.batch(pictures, [wording.CAPTION] * len(pictures), targets)

    def refer(self, images: Any, expressions: str | Sequence[str], boxes: Any = None) -> BatchFeature:
        """Referring expressions.

        Args:
            images: see `__call__`.
            expressions: one or a list; cleaned as the original does.
            boxes: per expression `x0, y0, x1, y1` in pixels of its picture; become four bins.

        Raises:
            ValueError: boxes without pictures, or a tokenizer without bins; see also `box_to_bins`.
        """
        texts = [wording.refer(e) for e in _listed(expressions, "expressions")]
        if boxes is None:
            return self.batch(images, texts)
        pictures = self._pictures(images, len(texts))
        wanted = _same([boxes] if isinstance(expressions, str) else boxes, len(texts), "boxes")
        if pictures is None or any(p is None for p in pictures):
            raise ValueError("boxes need their pictures: pass images, one per expression")
        targets = [[*self.encode_box(box, p.size), self._eos] for box, p in zip(wanted, pictures, strict=True)]
        return self.batch(pictures, texts, targets)

    def entail(
        self,
        images: Any,
        hypotheses: str | Sequence[str],
        captions: str | Sequence[str] | None = None,
        labels: str | Sequence[str] | None = None,
        prompt_type: str = "none",
    ) -> BatchFeature:
        """Visual entailment (SNLI-VE).

        Args:
            images: see `__call__`.
            hypotheses: one or a list; cleaned as the original does.
            captions: of the images, as a further premise where given.
            labels: entailment, contradiction or neutral, which become yes, no and maybe.
            prompt_type: see `__call__`.
        """
        asked = _listed(hypotheses, "hypotheses")
        premises: Sequence[str | None] = [None] * len(asked)
        if captions is not None:
            premises = _same(captions, len(asked), "captions")
        texts = [wording.entailment(h, c) for h, c in zip(asked, premises, strict=True)]
        targets = None
        if labels is not None:
            targets = [wording.entailment_target(label) for label in _same(labels, len(asked), "labels")]
        return self(images, texts, targets, prompt_type)

    def batch(
        self,
        images: Any,
        texts: Sequence[str],
        targets: Sequence[Sequence[int]] | None = None,
        prompt_type: str = "none",
    ) -> BatchFeature:
        """`__call__` with targets as ids, end token last.

        Args:
            images: see `__call__`.
            texts: whole prompts.
            targets: ids per prompt, end token last.
            prompt_type: see `__call__`.
        """
        if prompt_type not in PROMPT_TYPES:
            raise ValueError(f"prompt_type must be one of {', '.join(PROMPT_TYPES)}, got {prompt_type!r}")
        if not texts:
            raise ValueError("an empty batch: give one prompt or more")
        ids = self.tokenizer([_spaced(text) for text in texts]).input_ids
        lengths = torch.tensor([len(row) for row in ids])
        input_ids = pad_lists(ids, self.tokenizer.pad_token_id)
        batch = {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        }
        pictures = self._pictures(images, len(texts))
        if pictures is not None and any(p is not None for p in pictures):
            batch.update(self.see(pictures))
        heads = [self._prompt(row, prompt_type) for row in ids]
        if targets is not None:
            rows = list(zip(heads, targets, strict=True))
            batch["labels"] = pad_lists([[IGNORE_INDEX] * (len(head) - 1) + list(t) for head, t in rows], IGNORE_INDEX)
            if prompt_type != "none":
                told = [[*head, *target[:-1]] for head, target in rows]
                batch["decoder_input_ids"] = pad_lists(told, self.tokenizer.pad_token_id)
        elif prompt_type != "none":
            if len({len(head) for head in heads}) > 1:
                raise ValueError(
                    f"prompt_type {prompt_type!r}: the prompts have different lengths, and generate() takes one prefix "
                    "length per batch; batch prompts of equal length, or leave prompt_type out and pass "
                    "prompts=processor.decoder_prompts(input_ids) to prefix_allowed_tokens_fn or score_candidates"
                )
            batch["decoder_input_ids"] = torch.tensor(heads)
        return BatchFeature(batch)

    def decoder_prompts(self, input_ids: Any, prompt_type: str = "prev_output") -> list[list[int]]:
        """What the decoder is told before it answers, one list of ids per row of the encoder's `input_ids`, not padded."""
        pad = self.tokenizer.pad_token_id
        return [self._prompt([i for i in row if i != pad], prompt_type) for row in torch.as_tensor(input_ids).tolist()]

    def _prompt(self, ids: list[int], prompt_type: str) -> list[int]:
        return {"none": ids[:1], "src": ids, "prev_output": ids[:-1]}[prompt_type]

    @property
    def _eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def encode_answers(self, answers: Sequence[str], cut: bool = True) -> list[list[int]]:
        """Ids of answers, a space before each, at most `max_target_length` tokens where `cut`, and the end token."""
        ids = self.tokenizer([_spaced(a) for a in answers], add_special_tokens=False).input_ids
        return [[*(row[: self.max_target_length] if cut else row), self._eos] for row in ids]

    def encode_box(self, box: Sequence[float], size: tuple[int, int]) -> list[int]:
        """A box in pixels of a picture of `size` (width, height) as four ids."""
        bins = box_to_bins(box, size, self.image_size, self._reach, self._need_bins())
        return [self.first_bin + b for b in bins]

    def see(self, pictures: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Pictures, some of which may be None, to `patch_images` (zeros for None) and `patch_masks`."""
        there = [rgb_picture(p, upright=False) for p in pictures if p is not None]
        found = iter(self.image_processor(there, return_tensors="pt")["pixel_values"])
        blank = torch.zeros(3, self.image_size, self.image_size)
        return {
            "patch_images": torch.stack([blank if p is None else next(found) for p in pictures]),
            "patch_masks": torch.tensor([p is not None for p in pictures]),
        }

    def _pictures(self, images: Any, count: int) -> list[Any] | None:
        """Pictures as RGB, one or None per prompt; None for no pictures at all."""
        given = picture_list(images, count, "prompts")
        return given and [None if p is None else rgb_picture(p, upright=False) for p in given]

    # -- back from the model --------------------------------------------------------------------------------------

    def answers(self, sequences: Any, prompts: Sequence[Sequence[int]] | int = 1) -> list[str]:
        """Generated ids `[rows, length]` to texts, without special tokens and spaces around.

        Args:
            prompts: how many ids at the front were told to the decoder, or per row the prompt itself (as
                `decoder_prompts` gives them; rows that `generate()` made several of follow one another).
        """
        rows = torch.as_tensor(sequences).tolist()
        skips = _skips(prompts, len(rows))
        texts = self.tokenizer.batch_decode(
            [row[n:] for row, n in zip(rows, skips, strict=True)], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def boxes(
        self, sequences: Any, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[float, float, float, float] | None]:
        """Generated ids `[rows, length]` to boxes in pixels of pictures of `sizes` (width, height); None where there are
        fewer than four bins. Bins after the fourth are ignored."""
        rows, count = torch.as_tensor(sequences).tolist(), self._need_bins()
        found = []
        for row, size in zip(rows, _same(list(sizes), len(rows), "sizes"), strict=True):
            bins = [i - self.first_bin for i in row if 0 <= i - self.first_bin < count][:4]
            found.append(bins_to_box(bins, size, self.image_size, self._reach, count) if len(bins) == 4 else None)
        return found

    def box_tokens_fn(self, start: int = 1) -> Callable[[int, torch.Tensor], list[int]]:
        """`prefix_allowed_tokens_fn` of `generate()` for four bins and the end, after `start` ids told to the decoder."""
        bins = list(range(self.first_bin, self.first_bin + self._need_bins()))
        return lambda _, ids: bins if len(ids) < start + 4 else [self._eos]

    @property
    def _reach(self) -> int:
        return self.max_image_size or self.image_size

    def _need_bins(self) -> int:
        if self.n_bins < 2:
            raise ValueError("the tokenizer has no location bins <bin_0>, <bin_1> …; boxes need them")
        return self.n_bins


def _spaced(text: str) -> str:
    return text if text.startswith(" ") or not text else f" {text}"


def _listed(values: str | Sequence[str] | None, name: str) -> list[str]:
    if values is None:
        raise ValueError(f"give the prompts as {name}=")
    return [values] if isinstance(values, str) else list(values)


def _same(values: Any, count: int, name: str) -> list[Any]:
    given = [values] if isinstance(values, str) else list(values)
    if len(given) != count:
        raise ValueError(f"{count} rows, but {name} for {len(given)}")
    return given


def _skips(prompts: Sequence[Sequence[int]] | int, rows: int) -> list[int]:
    if isinstance(prompts, int):
        return [prompts] * rows
    if not prompts or rows % len(prompts):
        raise ValueError(f"{rows} sequences, but prompts for {len(prompts)}")
    each = rows // len(prompts)
    return [len(prompt) for prompt in prompts for _ in range(each)]


__all__ = ["OFAProcessor", "build_image_processor"]
