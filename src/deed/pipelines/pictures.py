"""Pictures to text: captions, answers to questions about pictures, and about documents.

Each kind of model is asked in its own way: OFA and LaTr++ by their processors, Florence-2 by a task token before the
question, Donut by a prompt of the decoder, Pix2Struct by a question drawn above the picture, other vision encoders with a
text decoder (captions) by the picture alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deed.errors import DataError
from deed.tasks.answering import pad_rows

from .base import Generated, Pipeline, Row

Picture = Any  # a path, the bytes of a file, or a PIL image


class PicturePipeline(Pipeline):
    """`deed.pipeline("caption")`, and what the other two share.

    Args:
        args, kwargs: as for `Pipeline`.
        prompt: what a captioning model is to go on from, where it takes a text (Florence-2: its task token).
    """

    what = "looking at pictures"
    asks = "caption"

    def __init__(self, *args: Any, prompt: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prompt = prompt
        self.kind = _kind_of(self.model)
        if self.asks not in _ASKED[self.kind]:
            raise DataError(
                f"{type(self.model).__name__} is not asked for {self.asks!r} in any way that this pipeline knows; it can be "
                f"asked for {', '.join(_ASKED[self.kind])}"
            )

    def pieces(self, item: Any, call: Mapping[str, Any]) -> list[Row]:
        """One row per input."""
        return [self.encode(load(item), None)]

    def task_options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """OFA answers within the lengths that its processor allows."""
        if self.kind == "ofa":
            return {"do_sample": False, "num_beams": 1, "max_length": self.processor.max_target_length + 2}
        return {}

    def encode(self, picture: Any, question: str | None) -> dict[str, torch.Tensor]:
        """A picture, and a question about it, as the model's inputs without batch axis."""
        if self.kind == "ofa":
            batch = self.processor.caption(picture) if question is None else self.processor.vqa(picture, question)
        elif self.kind == "florence2":
            text = (self.prompt or ("<CAPTION>" if question is None else "<VQA>")) + (question or "")
            batch = self.processor(text=text, images=picture, return_tensors="pt")
        elif self.kind == "pix2struct":
            header = question or self.prompt
            batch = self.processor(images=picture, return_tensors="pt", **({} if header is None else {"text": header}))
        else:
            extractor = getattr(self.processor, "image_processor", self.processor)
            batch = dict(extractor(picture, return_tensors="pt"))
            start = self.prompt if question is None else _donut_prompt(question)
            if start is not None:
                ids = self.tokenizer(start, add_special_tokens=False, return_tensors="pt").input_ids
                batch["decoder_input_ids"] = ids
        return {name: value[0] for name, value in batch.items() if name in _INPUTS}

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Rows to a batch, texts padded at the right."""
        return pad_rows(rows, self.tokenizer.pad_token_id)

    def result(self, item: Any, found: Sequence[Generated], call: Mapping[str, Any]) -> dict[str, Any]:
        """`{key: text}`.

        Args:
            item, found, call: as for `Pipeline.result`.
        """
        return {self.key: self.text(found[0].tokens)}


class QuestionPipeline(PicturePipeline):
    """`deed.pipeline("vqa")`: called with a picture and `question=`, or with mappings `{"image", "question"}`."""

    key = "answer"
    asks = "vqa"
    call_options: tuple[str, ...] = ("question",)

    def __call__(self, inputs: Any, question: str | list[str] | None = None, **call: Any) -> Any:
        """As `Pipeline.__call__`.

        Args:
            inputs: a picture with `question`, `{"image", "question"}`, or a list of either.
            question: one for every picture given; a list of them is asked of the one picture.
            call: as there.

        Raises:
            ValueError: no question, or lists on both sides.
        """
        if isinstance(question, list | tuple):
            if isinstance(inputs, list | tuple):
                raise ValueError('of several pictures and several questions give pairs: [{"image": …, "question": …}]')
            return super().__call__([asked_of(inputs, one) for one in question], **call)
        if isinstance(inputs, list | tuple):
            return super().__call__([asked_of(one, question) for one in inputs], **call)
        return super().__call__(asked_of(inputs, question), **call)

    def pieces(self, item: Any, call: Mapping[str, Any]) -> list[Row]:
        """One row per question."""
        pair = asked_of(item, call.get("question"))
        return [self.encode(load(pair["image"]), pair["question"])]

    def result(self, item: Any, found: Sequence[Generated], call: Mapping[str, Any]) -> dict[str, Any]:
        """`{"answer"}`; of Donut without its tags.

        Args:
            item, found, call: as for `Pipeline.result`.
        """
        text = self.text(found[0].tokens)
        if self.kind == "vision":
            text = re.sub(r"<[^>]*>", "", text).strip()
        return {self.key: text}


class DocumentPipeline(QuestionPipeline):
    """`deed.pipeline("document-qa")`: questions about a page, an image or a page of a PDF (`page=`, counted from 1). A LaTr++
    reads the PDF's own text where it covers the page, else by OCR.

    Args:
        args: as for `Pipeline`.
        ocr: engine for pages without text of their own, `rapidocr` or `tesseract`.
        kwargs: as for `Pipeline`.
    """

    asks = "document-qa"
    what = "reading documents"
    call_options = ("question", "page")

    def __init__(self, *args: Any, ocr: str = "rapidocr", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ocr = ocr
        self._last: tuple[Any, Any] = (None, None)  # several questions about one page read it once

    def task_options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Greedy."""
        return {"do_sample": False, "num_beams": 1}

    def pieces(self, item: Any, call: Mapping[str, Any]) -> list[Row]:
        """One row per question."""
        pair = asked_of(item, call.get("question"))
        picture, words = self.page(pair["image"], pair.get("page", call.get("page", 1)), pair.get("words"))
        if self.kind != "latr":
            return [self.encode(picture, pair["question"])]
        from deed.data.base import Example
        from deed.tasks.documents import encode

        return [encode(self.processor, Example(pair["question"], [], words, picture))]

    def page(self, source: Any, number: int, words: Any = None) -> tuple[Any, Any]:
        """A page's picture, upright, and its words with boxes, where the model reads them.

        Args:
            source: a path, bytes, or a picture.
            number: page, from 1.
            words: `(text, (x0, y0, x1, y1))` on 0..1000, where they are known already.
        """
        from deed.ocr import page_image, page_text, read_page, turn_image

        known, page = self._last
        if known is not None and known[0] is source and known[1:] == (number, words is None):
            return page
        is_file = isinstance(source, str) or hasattr(source, "__fspath__")
        picture = page_image(source, number) if is_file else load(source)
        if words is None and self.kind == "latr":
            layer = page_text(source, number) if is_file else None
            if layer is not None and layer.covers:
                words, turn = layer.words, layer.rotation
            else:
                read = read_page(picture, engine=self.ocr, cache=True)
                words, turn = read.words, read.rotation
            picture = turn_image(picture, turn)
        self._last = ((source, number, words is None), (picture, words)) if is_file else (None, None)
        return picture, words

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Rows to a batch."""
        if self.kind != "latr":
            return super().collate(rows)
        from deed.tasks.documents import inputs_of

        return inputs_of(self.processor, rows)


_INPUTS = ("input_ids", "attention_mask", "pixel_values", "flattened_patches", "patch_images", "decoder_input_ids")
_ASKED = {
    "ofa": ("caption", "vqa"),
    "latr": ("document-qa",),
    "florence2": ("caption", "vqa"),
    "pix2struct": ("caption", "vqa", "document-qa"),
    "vision": ("caption", "vqa", "document-qa"),
    "": (),
}


def _kind_of(model: Any) -> str:
    kind = model.config.model_type.replace("-", "").replace("_", "")
    if kind == "visionencoderdecoder":
        return "vision"
    return kind if kind in _ASKED else ""


def _donut_prompt(question: str) -> str:
    # Donut's own, Kim et al., ECCV 2022 (naver-clova-ix/donut-base-finetuned-docvqa).
    return f"<s_docvqa><s_question>{question}</s_question><s_answer>"


def load(source: Any) -> Any:
    """A picture, upright RGB; see `deed.utils.images.load_image`."""
    from deed.utils.images import load_image

    return load_image(source)


def asked_of(item: Any, question: str | None) -> dict[str, Any]:
    """A picture and a question as a mapping.

    Args:
        item: a picture, or a mapping with `"image"` and maybe `"question"`.
        question: what is asked where the mapping does not say.

    Raises:
        ValueError: nothing is asked, or there is no picture.
    """
    pair = dict(item) if isinstance(item, Mapping) else {"image": item}
    pair.setdefault("question", question)
    if pair.get("image") is None:
        raise ValueError('a picture is missing: give {"image": …, "question": …} or a picture and question=')
    if not isinstance(pair["question"], str) or not pair["question"].strip():
        raise ValueError("a question is missing: pass question= or mappings with both")
    return pair
