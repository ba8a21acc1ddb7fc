"""Recordings to text: cut where it is quiet, every piece a request of its own, so that a long recording holds nobody up.

Whisper's pieces are run by its own `generate()` (times of segments, languages, prompts), other models' pieces row by row in
the running batch, with their tokens as they come.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from deed.pipelines.speech import QUIET, TranscriptionPipeline, cut_at_quiet

from .api_errors import ApiError
from .running import Job
from .served import SPEECH, Asked, ServedModel, all_finished, finished
from .ticket import Finished
from .uploads import read_sound
from .wire import GenerateResponse, Generation, TokenOut

WHISPER_PIECE_S = 29.0  # Whisper reads 30 seconds at once


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

    def segments(self, i: int, end: Finished) -> list[Segment]:
        """What a piece became.

        Args:
            i: its number.
            end: of its ticket.
        """
        after = self.starts[i + 1] if i + 1 < len(self.starts) else self.seconds
        if not self.served.is_whisper:
            return [Segment(self.starts[i], after, self.pipe.text(end.tokens), list(end.tokens))]
        found = []
        for segment in end.output["segments"][0]:
            tokens = segment["tokens"].tolist()
            start, stop = (min(after, self.starts[i] + max(0.0, float(segment[name]))) for name in ("start", "end"))
            found.append(Segment(start, max(start, stop), self.pipe.text(tokens), tokens))
        return found

    async def transcribe(self) -> list[Segment]:
        """All segments.

        Raises:
            Exception: of a piece that failed.
        """
        ends = await all_finished(self.tickets)
        return [segment for i, end in enumerate(ends) for segment in self.segments(i, end)]

    async def stream_text(self) -> AsyncIterator[str]:
        """The text as it comes: tokens, or of Whisper segments; joined it is the whole.

        Raises:
            Exception: of a piece that failed.
        """
        said = False
        try:
            if not self.served.is_whisper:
                async for part in self.stream():
                    if isinstance(part, TokenOut) and part.text:
                        yield part.text
                return
            for i, ticket in enumerate(self.tickets):
                for segment in self.segments(i, await finished(ticket)):
                    if segment.text:
                        yield (" " if said else "") + segment.text
                        said = True
        finally:
            self.cancel()

    async def answer(self) -> GenerateResponse:
        """As `Job.answer`; Whisper's tokens come without depths where its `generate()` tells none."""
        if not self.served.is_whisper:
            return await super().answer()
        ends = await all_finished(self.tickets)
        return self.whole([s for i, end in enumerate(ends) for s in self.segments(i, end)], ends)

    async def stream(self) -> AsyncIterator[TokenOut | GenerateResponse]:
        """As `Job.stream`; of Whisper the whole answer only."""
        if not self.served.is_whisper:
            async for part in super().stream():
                yield part
            return
        try:
            yield await self.answer()
        finally:
            self.cancel()

    def whole(self, segments: list[Segment], ends: list[Finished]) -> GenerateResponse:
        """Whisper's answer.

        Args:
            segments: of all pieces.
            ends: of their tickets.
        """
        depths = [depth for end in ends for depth in end.depths if depth]
        mean, layers = sum(depths) / len(depths) if depths else None, self.served.layers
        told = self.respond([], [])
        return told.model_copy(
            update={
                "text": " ".join(segment.text for segment in segments if segment.text),
                "mean_depth": mean,
                "saving": None if mean is None else 1 - mean / layers,
            }
        )


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
    piece = int(WHISPER_PIECE_S * pipe.rate) if served.is_whisper else pipe.chunk
    parts = list(cut_at_quiet(samples, piece, int(QUIET * pipe.rate)))
    starts, at = [], 0
    for part in parts:
        starts.append(at / pipe.rate)
        at += len(part)
    inputs = [pipe.collate([pipe.pieces(part, {})[0]]) for part in parts]
    if served.is_whisper:
        asked, language = _whisper_options(served, asked, wanted, inputs[0], language, translate, prompt, timed)
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
    first: dict[str, Any],
    language: str | None,
    translate: bool,
    prompt: str | None,
    timed: bool,
) -> tuple[Asked, str]:
    """What Whisper's `generate()` is told, and the language."""
    options = dict(asked.options)
    if wanted.max_new_tokens is None:
        options.pop("max_new_tokens", None)  # its own limit counts the prompt, too
    options |= {"return_segments": True, "return_timestamps": timed}
    config = served.model.generation_config
    if getattr(config, "is_multilingual", False):
        if language is None:
            language = _spoken(served, first)
        options |= {"language": language, "task": "translate" if translate else "transcribe"}
    elif translate or (language or "en").lower() not in ("en", "english"):
        raise ApiError(400, f"{served.name} knows English only", "language")
    else:
        language = "en"
    if prompt:
        options["prompt_ids"] = served.processor.get_prompt_ids(prompt, return_tensors="pt").to(served.model.device)
    return Asked(options, asked.exact, asked.seed, asked.deadline_s, asked.stop), language


def _spoken(served: ServedModel, inputs: dict[str, Any]) -> str:
    """The language of a recording's first piece, which `generate()` would else find out in the same way for every piece."""
    import torch

    features = inputs["input_features"].to(served.model.device, served.model.dtype)
    with torch.no_grad():
        token = int(served.model.detect_language(input_features=features)[0])
    known = {index: name for name, index in served.model.generation_config.lang_to_id.items()}
    return str(known.get(token, "<|en|>")).strip("<|>")
