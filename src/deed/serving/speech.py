"""Recordings to text, as `deed.pipeline("transcribe")` does it, through the scheduler.

Whisper follows its own rules for long recordings (a guest of the scheduler: its windows join the running batch one after
another); what other models get is cut where it is quiet, every piece a request of its own.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deed.pipelines.speech import TranscriptionPipeline

from .api_errors import ApiError
from .detokenize import Detokenizer
from .kinds import SPEECH
from .running import Job
from .served import Asked, ServedModel, all_finished, generated
from .ticket import Failed, Finished, Token
from .uploads import read_sound
from .wire import Generation, TokenOut


@dataclass
class Segment:
    """A part of a transcript.

    Attributes:
        start, end: seconds from the recording's beginning.
        text: what was said.
        tokens: of the text.
    """

    start: float
    end: float
    text: str
    tokens: list[int] = field(default_factory=list)

    def to_openai(self, number: int) -> dict[str, Any]:
        """As OpenAI's `verbose_json` has it, without what is not known here."""
        text = self.text.encode()
        ratio = len(text) / len(zlib.compress(text)) if text else 0.0
        told = {"id": number, "seek": 0, "start": self.start, "end": self.end, "text": self.text}
        return {**told, "tokens": self.tokens, "compression_ratio": ratio}


@dataclass
class SpeechJob(Job):
    """A recording made ready.

    Attributes:
        starts: seconds at which the pieces begin.
        seconds: of the whole.
        language: spoken, as far as it is known.
    """

    starts: list[float] = field(default_factory=list)
    seconds: float = 0.0
    language: str = ""

    def segments(self, ends: Sequence[Finished]) -> list[Segment]:
        """The transcript in parts with their times: Whisper's own, or of other models the pieces.

        Args:
            ends: of the tickets.
        """
        if not self.served.is_whisper:
            until = [*self.starts[1:], self.seconds]
            return [
                Segment(start, stop, self.pipe.text(end.tokens), list(end.tokens))
                for start, stop, end in zip(self.starts, until, ends, strict=True)
            ]
        found = []
        for segment in ends[0].output["segments"][0]:
            tokens = segment["tokens"].tolist()
            start, stop = (min(self.seconds, max(0.0, float(segment[name]))) for name in ("start", "end"))
            found.append(Segment(start, max(start, stop), self.pipe.text(tokens), tokens))
        return found

    def result(self, ends: Sequence[Finished]) -> dict[str, Any]:
        """What `deed.pipeline("transcribe")` gives: `"text"`, and of Whisper `"language"`.

        Args:
            ends: of the tickets.
        """
        found = [generated(end) for end in ends]
        if self.served.is_whisper:
            found = [replace(found[0], more=(False, ends[0].output["segments"][0]))]
        return self.pipe.result(self.item, found, self.call)

    async def transcribe(self) -> tuple[str, list[Segment]]:
        """The whole text, and its parts.

        Raises:
            Exception: of a piece that failed.
        """
        ends = await all_finished(self.tickets)
        result = self.result(ends)
        self.language = self.language or result.get("language") or ""
        return result["text"], self.segments(ends)

    async def stream_text(self) -> AsyncIterator[str]:
        """The text as it comes; joined it is the whole.

        Raises:
            Exception: of a piece that failed.
        """
        try:
            if not self.served.is_whisper:
                async for part in self.stream():
                    if isinstance(part, TokenOut) and part.text:
                        yield part.text
                return
            [ticket], said = self.tickets, WhisperText(self.served, self.asked.options["return_timestamps"])
            async for event in ticket:
                if isinstance(event, Failed):
                    raise event.error
                text = said.add(event) if isinstance(event, Token) else said.finish()
                if text:
                    yield text
        finally:
            self.cancel()


class WhisperText:
    """The text of Whisper's tokens as they come. With times it is given out by segments, since what follows the last pair of
    times in a window is decoded again in the next (`_retrieve_segment`, transformers 5.23).

    Args:
        served: the model.
        timed: whether tokens of time are generated.
    """

    def __init__(self, served: ServedModel, timed: bool) -> None:
        self.served, self.timed = served, timed
        self.first_time = int(served.model.generation_config.no_timestamps_token_id) + 1
        self._piece, self._pairs = 0, 0
        self._open: list[int] = []  # tokens not yet given out
        self._running = Detokenizer(served.tokenizer)
        self._said = False

    def add(self, token: Token) -> str:
        """What a token lets be given out; maybe nothing."""
        given = ""
        if token.piece != self._piece:
            given = self._end_piece()
            self._piece = token.piece
        if not self.timed:
            return self._spaced(given + self._running.add(token.id))
        is_time = token.id >= self.first_time
        if is_time and self._open and self._open[-1] >= self.first_time and len(self._open) > 1:
            self._pairs += 1
            given += self._text()
        self._open.append(token.id)
        return self._spaced(given)

    def finish(self) -> str:
        """What is left, at the end."""
        return self._spaced(self._end_piece())

    def _end_piece(self) -> str:
        if not self.timed:
            text = self._running.finish()
            self._running = Detokenizer(self.served.tokenizer)
            return text
        ends = self.served.model.generation_config.eos_token_id
        open_ids = [i for i in self._open if i != ends]
        ends_in_time = len(open_ids) > 1 and open_ids[-1] >= self.first_time > open_ids[-2]
        text = self._text() if not self._pairs or ends_in_time else ""
        self._open, self._pairs = [], 0
        return text

    def _text(self) -> str:
        text = str(self.served.tokenizer.decode(self._open, skip_special_tokens=True))
        self._open = []
        return text

    def _spaced(self, text: str) -> str:
        """The text, without the space that the first one begins with."""
        if not self._said:
            text = text.lstrip()
        self._said = self._said or bool(text)
        return text


def make_ready(
    served: ServedModel,
    data: bytes,
    wanted: Generation,
    language: str | None = None,
    translate: bool = False,
    prompt: str | None = None,
    timed: bool = False,
) -> SpeechJob:
    """Decode a recording and cut it; blocks, so for a thread of the readers.

    Args:
        served: the model.
        data: of the sound file.
        wanted: how it is answered.
        language: spoken; None: the model finds out.
        translate: into English.
        prompt: what was said before, for Whisper.
        timed: times of segments are wanted.

    Raises:
        DataError: no sound, or a damaged file.
        ApiError: too long, or a language or task that the model does not have.
    """
    began = time.perf_counter()
    pipe = served.pipeline(SPEECH)
    assert isinstance(pipe, TranscriptionPipeline)
    samples = read_sound(data, pipe.rate, served.limits)
    asked = served.asked(wanted, pipe.task_options({}))
    rows = pipe.pieces(samples, {})
    starts = [sum(len(row["samples"]) for row in rows[:i]) / pipe.rate for i in range(len(rows))]
    inputs = [pipe.collate([row]) for row in rows]
    if served.is_whisper:
        timed = timed or len(samples) > pipe.extractor.n_samples
        asked = _whisper_options(served, asked, wanted, language, translate, prompt, timed)
    elif translate:
        raise ApiError(400, f"{served.name} transcribes; it does not translate speech", "model")
    job = SpeechJob(served, SPEECH, pipe, samples, {}, inputs, asked)
    job.starts, job.seconds, job.language = starts, len(samples) / pipe.rate, language or ""
    job.reading_s = time.perf_counter() - began
    return job


def _whisper_options(
    served: ServedModel,
    asked: Asked,
    wanted: Generation,
    language: str | None,
    translate: bool,
    prompt: str | None,
    timed: bool,
) -> Asked:
    """What Whisper's `generate()` is told."""
    options = dict(asked.options)
    if wanted.max_new_tokens is None:
        options.pop("max_new_tokens", None)  # its own limit counts the prompt, too
    options |= {"return_segments": True, "return_timestamps": timed}
    if getattr(served.model.generation_config, "is_multilingual", False):
        options["task"] = "translate" if translate else "transcribe"
        if language:
            options["language"] = language
    elif translate or (language or "en").lower() not in ("en", "english"):
        raise ApiError(400, f"{served.name} knows English only", "language")
    if prompt:
        options["prompt_ids"] = served.processor.get_prompt_ids(prompt, return_tensors="pt").to(served.model.device)
    return Asked(options, asked.exact, asked.seed, asked.deadline_s, asked.stop)
