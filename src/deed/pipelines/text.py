"""Texts to texts: summaries, translations, and whatever a model was trained to write."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .base import Generated, Pipeline, Row
from .languages import languages_of, prompt_of
from .long_text import cut, longest_input


class TextPipeline(Pipeline):
    """`deed.pipeline("text2text")`: texts to texts, as they are.

    Args:
        args: as for `Pipeline`.
        max_source: tokens read at once; None: what the model's configuration says.
        kwargs: as for `Pipeline`.

    Attributes:
        cuts: whether a text that is too long is cut into pieces (or refused).
    """

    cuts = False
    settings: tuple[str, ...] = ()  # names in the configuration's `task_specific_params`, the first found counts

    def __init__(self, *args: Any, max_source: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_source = max_source or longest_input(self.model, self.tokenizer)
        known = getattr(self.model.config, "task_specific_params", None) or {}
        chosen: dict[str, Any] = next((known[name] for name in self.settings if name in known), {})
        self.prefix = chosen.get("prefix", "")
        self._own = {k: v for k, v in chosen.items() if k != "prefix"}
        # Not every model reads what its tokenizer says beside these (token types).
        takes = inspect.signature(type(self.model).forward).parameters
        self._names = [name for name in ("input_ids", "attention_mask") if name in takes]
        self._encoding = threading.Lock()  # a tokenizer is told the source language before it encodes

    def task_options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's configuration says of the task (lengths, beams)."""
        return dict(self._own)

    def before(self, call: Mapping[str, Any]) -> str:
        """What stands before every piece of text."""
        return self.prefix

    def pieces(self, item: Any, call: Mapping[str, Any]) -> list[Row]:
        """A text as rows, one for each piece that the model reads at once."""
        if not isinstance(item, str):
            raise TypeError(f"a text is expected, got {type(item).__name__}")
        with self._encoding:
            prefix = self.before(call)
            texts = self.parts(item, prefix)
            encoded = self.tokenizer([prefix + text for text in texts], verbose=False) if texts else {}
        return [{name: encoded[name][i] for name in self._names if name in encoded} for i in range(len(texts))]

    def parts(self, text: str, prefix: str) -> list[str]:
        """The text in pieces that fit, each with the prefix before it.

        Raises:
            ValueError: it is too long for a task that is not done in pieces.
        """
        if self.max_source is None:
            return [text]
        room = self.max_source - len(self.tokenizer(prefix).input_ids)
        length = self._count(text)
        if length <= room:
            return [text]
        if not self.cuts:
            raise ValueError(
                f"the text has {length} tokens and the model reads {room}; shorten it, or pass max_source= where the model "
                "reads more than its configuration says"
            )
        return cut(text, room, self._count)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def result(self, item: str, found: Sequence[Generated], call: Mapping[str, Any]) -> dict[str, Any]:
        """`{key: text}`.

        Args:
            item, found, call: as for `Pipeline.result`.
        """
        return {self.key: self.between.join(self.text(one.tokens) for one in found)}


class SummaryPipeline(TextPipeline):
    """`deed.pipeline("summarize")`: a text longer than the model reads is summarized in pieces cut between sentences, whose
    summaries are joined, and with `reduce=True` summarized again until one piece is left."""

    key = "summary_text"
    cuts = True
    what = "summarizing"
    settings = ("summarization",)
    call_options = ("reduce",)

    def __call__(self, inputs: Any, *, reduce: bool = False, **call: Any) -> Any:
        """As `Pipeline.__call__`.

        Args:
            inputs: a text or a list of texts.
            reduce: summarize the joined summaries of a long text again.
            call: as there.
        """
        if isinstance(inputs, list | tuple):
            results = super().__call__(list(inputs), **call)
            if not reduce:
                return results
            return [self._reduced(text, result, call) for text, result in zip(inputs, results, strict=True)]
        result = super().__call__(inputs, **call)
        return self._reduced(inputs, result, call) if reduce else result

    def stream(self, item: Any, **call: Any) -> Iterator[str]:
        """As `Pipeline.stream`; a summary of summaries cannot be streamed.

        Raises:
            ValueError: `reduce=True`.
        """
        if call.pop("reduce", False):
            raise ValueError("reduce=True needs the whole summary before it is summarized again; call the pipeline")
        return super().stream(item, **call)

    def _reduced(self, text: str, result: dict[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
        while len(self.parts(text, self.prefix)) > 1:
            shorter = result[self.key]
            if self._count(shorter) >= self._count(text):  # the model does not summarize
                return result
            text, result = shorter, super().__call__(shorter, **call)
        return result


class TranslationPipeline(TextPipeline):
    """`deed.pipeline("translate")`: paragraph by paragraph, a long one in pieces cut between sentences. `src_lang` and
    `tgt_lang` are codes of the model's own or ISO 639 ("de"); both may be given once, when the pipeline is made.

    Args:
        args: as for `TextPipeline`.
        src_lang: language of the texts.
        tgt_lang: language wanted.
        kwargs: as for `TextPipeline`.
    """

    key = "translation_text"
    cuts = True
    what = "translating"
    call_options = ("src_lang", "tgt_lang")

    def __init__(self, *args: Any, src_lang: str | None = None, tgt_lang: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.languages = languages_of(self.model, self.tokenizer)
        own = getattr(self.tokenizer, "src_lang", None)  # a call's language does not stay for the next
        self.pair = {
            "src_lang": src_lang if src_lang is not None or not self.languages.kind else own,
            "tgt_lang": tgt_lang,
        }
        if tgt_lang is not None or not self.languages.kind:
            self.prompt({})  # says at once where a language is unknown
        elif src_lang is not None:
            self.languages.code(src_lang)

    def prompt(self, call: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """What stands before a text, and options of `generate()`; tells the tokenizer the source. See `prompt_of`."""
        pair = {**self.pair, **call}
        return prompt_of(self.languages, self.model, self.tokenizer, pair["src_lang"], pair["tgt_lang"])

    def task_options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The target language, where it is the first generated token."""
        with self._encoding:
            return self.prompt(call)[1]

    def before(self, call: Mapping[str, Any]) -> str:
        """The target language, where it stands before the text."""
        return self.prompt(call)[0]

    def parts(self, text: str, prefix: str) -> list[str]:
        """Paragraphs, long ones in pieces; what only separates paragraphs is put back by `result`."""
        lines = [line for line in text.split("\n") if line.strip()]
        return [piece for line in lines for piece in super(TranslationPipeline, self).parts(line, prefix)]

    def stream(self, item: str, **call: Any) -> Iterator[str]:
        """As `Pipeline.stream`, paragraph by paragraph."""
        for i, line in enumerate(item.split("\n")):
            if i:
                yield "\n"
            yield from super().stream(line, **call)

    def result(self, item: str, found: Sequence[Generated], call: Mapping[str, Any]) -> dict[str, Any]:
        """`{"translation_text"}`, with the paragraphs of the source.

        Args:
            item, found, call: as for `Pipeline.result`.
        """
        with self._encoding:
            prefix = self.before(call)
        texts, lines = iter(self.text(one.tokens) for one in found), []
        for line in item.split("\n"):
            count = len(super().parts(line, prefix)) if line.strip() else 0
            lines.append(" ".join(next(texts) for _ in range(count)))
        return {self.key: "\n".join(lines)}
