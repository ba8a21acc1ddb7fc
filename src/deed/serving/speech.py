"""Recordings to text, as `deed.pipeline("transcribe")` does it, through the scheduler.

Whisper follows its own rules for long recordings (a guest of the scheduler: its windows join the running batch one after
another); what other models get is cut where it is quiet, every piece a request of its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deed.pipelines.speech import TranscriptionPipeline

from .api_errors import ApiError
from .detokenize import Detokenizer
from .kinds import SPEECH
from .reading import read_sound
from .running import Job
from .served import Asked, ServedModel, all_finished, generated
from .ticket import Failed, Finished, Token
from .transcript import Segment, WhisperText, logprobs_of_segment, pieces_of, tokens_and_logprobs
from .wire import Generation, TokenOut

GRANULARITIES = "timestamp_granularities"


@dataclass(frozen=True)
class SpeechOptions:
    """What is asked of a recording.

    Attributes:
        language: spoken; None: the model finds out.
        translate: into English.
        prompt: what was said before, for Whisper.
        timed: times of segments are wanted; `words` those of words, too.
        logprobs: the log-probability of every token is wanted.
    """

    language: str | None = None
    translate: bool = False
    prompt: str | None = None
    timed: bool = False
    words: bool = False
    logprobs: bool = False


@dataclass
class SpeechJob(Job):
    """A recording made ready.

    Attributes:
        starts: seconds at which the pieces begin.
        seconds: of the whole.
        language: spoken, as far as it is known.
        options: what is asked of it.
    """

    starts: list[float] = field(default_factory=list)
    seconds: float = 0.0
    language: str = ""
    options: SpeechOptions = SpeechOptions()

    def segments(self, ends: Sequence[Finished]) -> list[Segment]:
        """The transcript in parts with their times: Whisper's own, or of other models the pieces.

        Args:
            ends: of the tickets.
        """
        if not self.served.is_whisper:
            until = [*self.starts[1:], self.seconds]
            return [
                Segment(start, stop, self.pipe.text(end.tokens), list(end.tokens), logs)
                for start, stop, end, (_, logs) in zip(
                    self.starts, until, ends, map(tokens_and_logprobs, self.tickets), strict=True
                )
            ]
        found, pieces = [], list(pieces_of(self.tickets[0]))
        for segment in ends[0].output["segments"][0]:
            tokens = segment["tokens"].tolist()
            start, stop = (self._within(float(segment[name])) for name in ("start", "end"))
            made = Segment(start, max(start, stop), self.pipe.text(tokens), tokens)
            made.logprobs = logprobs_of_segment(segment, pieces)
            if self.options.words:
                assert isinstance(self.pipe, TranscriptionPipeline)
                words = self.pipe.chunk_of(segment, timed=True)["words"]
                made.words = [
                    {"word": word.pop("text"), **word, **{at: self._within(word[at]) for at in ("start", "end")}}
                    for word in words
                ]
            found.append(made)
        return found

    def _within(self, at: float) -> float:
        """A time, held to the recording, in the hundredths that Whisper's steps of 0.02 s take."""
        return min(self.seconds, round(max(0.0, at), 2))

    def logprobs(self, segments: Sequence[Segment]) -> list[dict[str, Any]]:
        """OpenAI's `logprobs`: every token of the text with the log-probability that its exit gave it; what makes up a letter
        together is one.

        Args:
            segments: of `segments`.

        Raises:
            ApiError: they are not known (exact answers, whose drafts are verified many at a time).
        """
        tokenizer, text, pending = self.served.tokenizer, Detokenizer(self.served.tokenizer), 0.0
        found = []
        for segment in segments:
            if len(segment.logprobs) < len(segment.tokens):
                raise ApiError(400, "include[]=logprobs: not known of exact answers; leave exact out", "include")
            for token, logprob in zip(segment.tokens, segment.logprobs, strict=True):
                if not tokenizer.decode([token], skip_special_tokens=True):  # a time, or the end
                    continue
                pending += logprob
                if said := text.add(token):
                    found.append({"token": said, "logprob": pending, "bytes": list(said.encode())})
                    pending = 0.0
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


def make_ready(
    served: ServedModel, data: bytes, wanted: Generation, options: SpeechOptions = SpeechOptions()
) -> SpeechJob:
    """Decode a recording and cut it; blocks, so for a thread of the readers.

    Args:
        served: the model.
        data: of the sound file.
        wanted: how it is answered.
        options: what is asked of it.

    Raises:
        DataError: no sound, or a damaged file.
        ApiError: too long, or a language, a task or times of words that the model does not have.
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
        timed = options.timed or options.words or len(samples) > pipe.extractor.n_samples
        asked = _whisper_options(served, asked, wanted, replace(options, timed=timed))
    elif options.words:
        raise ApiError(400, f"{served.name} does not tell when words are said, only Whisper does", GRANULARITIES)
    elif options.translate:
        raise ApiError(400, f"{served.name} transcribes; it does not translate speech", "model")
    job = SpeechJob(served, SPEECH, pipe, samples, {}, inputs, asked)
    job.starts, job.seconds, job.language = starts, len(samples) / pipe.rate, options.language or ""
    job.options = options
    job.reading_s = time.perf_counter() - began
    return job


def _whisper_options(served: ServedModel, asked: Asked, wanted: Generation, wish: SpeechOptions) -> Asked:
    """What Whisper's `generate()` is told."""
    options, config = dict(asked.options), served.model.generation_config
    if wanted.max_new_tokens is None:
        options.pop("max_new_tokens", None)  # its own limit counts the prompt, too
    options |= {"return_segments": True, "return_timestamps": wish.timed}
    if wish.words:
        if not getattr(config, "alignment_heads", None):
            told = f"{served.name} says nowhere by which of its heads words are timed (alignment_heads)"
            raise ApiError(400, told, GRANULARITIES)
        options["return_token_timestamps"] = True
    if getattr(config, "is_multilingual", False):
        options["task"] = "translate" if wish.translate else "transcribe"
        if wish.language:
            options["language"] = wish.language
    elif wish.translate or (wish.language or "en").lower() not in ("en", "english"):
        raise ApiError(400, f"{served.name} knows English only", "language")
    if wish.prompt:
        prompt = served.processor.get_prompt_ids(wish.prompt, return_tensors="pt")
        options["prompt_ids"] = prompt.to(served.model.device)
    return Asked(options, asked.exact, asked.seed, asked.deadline_s, asked.stop)
