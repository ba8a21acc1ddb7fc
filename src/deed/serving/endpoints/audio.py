"""OpenAI's audio endpoints, for its clients: `POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import PlainTextResponse
from starlette.responses import Response

from deed.pipelines.subtitles import to_srt, to_vtt

from .. import speech, sse
from ..api_errors import ApiError
from ..kinds import SPEECH
from ..state import ServerState, answered, state_of
from ..transcript import Segment
from ..wire import Generation
from .documented import errors

router = APIRouter(tags=["OpenAI audio"], prefix="/v1/audio")
Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]
TIMED = ("verbose_json", "srt", "vtt")
FORMATS = {
    "application/json": {"schema": {"type": "object"}},
    "text/plain": {"schema": {"type": "string"}},
    "text/event-stream": {"schema": {"type": "string"}},
}
RESPONSES: dict[int | str, dict[str, Any]] = {**errors(), 200: {"content": FORMATS}}

Sound = Annotated[UploadFile, File(description="A recording of any usual kind.")]
ModelName = Annotated[
    str, Form(max_length=200, description="A model's name; whisper-1 and others: the first there is.")
]
Said = Annotated[str | None, Form(max_length=40, description="Language spoken, ISO 639-1.")]
Prompt = Annotated[str | None, Form(max_length=2000, description="What was said before (Whisper).")]
Answer = Annotated[Format, Form()]
Heat = Annotated[float, Form(ge=0, le=1)]
Threshold = Annotated[float | None, Form(ge=0, le=10, description="Exit threshold; above 1: full depth.")]
Exact = Annotated[bool, Form(description="Every token is full depth's.")]
Tokens = Annotated[int | None, Form(ge=1, le=1_000_000, description="Of each piece.")]
Deadline = Annotated[float | None, Form(gt=0, le=1e6, description="Seconds.")]


@router.post("/transcriptions", response_model=None, responses=RESPONSES)
async def transcriptions(
    request: Request,
    file: Sound,
    model: ModelName = "whisper-1",
    language: Said = None,
    prompt: Prompt = None,
    response_format: Answer = "json",
    temperature: Heat = 0.0,
    stream: Annotated[bool, Form()] = False,
    granularities: Annotated[list[Granularity] | None, Form(alias="timestamp_granularities[]")] = None,
    include: Annotated[list[Literal["logprobs"]] | None, Form(alias="include[]")] = None,
    threshold: Threshold = None,
    exact: Exact = False,
    max_new_tokens: Tokens = None,
    deadline: Deadline = None,
) -> Response:
    """Speech to text in the language spoken. With `stream` server-sent events: `transcript.text.delta` …,
    `transcript.text.done`.
    \f
    Args:
        request: of the client.
        file, language, prompt: what is transcribed, and what is known of it.
        model: name of the model.
        response_format, stream, granularities, include: how the text comes, and what with it.
        temperature, threshold, exact, max_new_tokens, deadline: as of `Generation`.
    """
    if granularities and (response_format != "verbose_json" or stream):
        why = "timestamp_granularities takes response_format=verbose_json, without stream"
        raise ApiError(400, why, speech.GRANULARITIES)
    if include and response_format != "json":
        raise ApiError(400, "include[]=logprobs takes response_format=json", "include")
    wanted = _wanted(temperature, threshold, exact, max_new_tokens, deadline)
    timed, words = response_format in TIMED, "word" in (granularities or ())
    options = speech.SpeechOptions(language or None, False, prompt or None, timed, words, bool(include))
    told = tuple(granularities or ("segment",))
    return await _respond(request, file, model, wanted, options, response_format, stream, told)


@router.post("/translations", response_model=None, responses=RESPONSES)
async def translations(
    request: Request,
    file: Sound,
    model: ModelName = "whisper-1",
    prompt: Prompt = None,
    response_format: Answer = "json",
    temperature: Heat = 0.0,
    threshold: Threshold = None,
    exact: Exact = False,
    max_new_tokens: Tokens = None,
    deadline: Deadline = None,
) -> Response:
    """Speech of any language to English text, by models that were trained for it.
    \f
    Args:
        request: of the client.
        file, prompt: what is translated, and what was said before.
        model: name of the model.
        response_format: how the text comes.
        temperature, threshold, exact, max_new_tokens, deadline: as of `Generation`.
    """
    wanted = _wanted(temperature, threshold, exact, max_new_tokens, deadline)
    options = speech.SpeechOptions(None, True, prompt or None, response_format in TIMED)
    return await _respond(request, file, model, wanted, options, response_format)


def _wanted(
    temperature: float, threshold: float | None, exact: bool, most: int | None, deadline: float | None
) -> Generation:
    return Generation(
        temperature=temperature, threshold=threshold, exact=exact, max_new_tokens=most, deadline=deadline
    )


async def _respond(
    request: Request,
    file: UploadFile,
    name: str,
    wanted: Generation,
    options: speech.SpeechOptions,
    form: str,
    streamed: bool = False,
    told: tuple[str, ...] = ("segment",),
) -> Response:
    state = state_of(request)
    data = await file.read()
    known = name if name in state.models.names else None  # clients ask for whisper-1
    served = await state.model(request, known, SPEECH)
    arguments = (served, data, wanted, options)
    if streamed:
        return await sse.stream(request, _events(state, arguments))
    job, text, segments = await answered(request, _transcribed(state, arguments))
    return formatted(job, text, segments, form, told)


async def _transcribed(state: ServerState, arguments: tuple[Any, ...]) -> tuple[speech.SpeechJob, str, list[Segment]]:
    job = await state.read(speech.make_ready, *arguments)
    job.submit()
    return job, *await job.transcribe()


async def _events(state: ServerState, arguments: tuple[Any, ...]) -> AsyncIterator[str]:
    job = await state.read(speech.make_ready, *arguments)
    job.submit()
    async for delta in job.stream_text():
        yield sse.event({"type": "transcript.text.delta", "delta": delta})
    text, segments = await job.transcribe()
    logprobs = {"logprobs": job.logprobs(segments)} if job.options.logprobs else {}
    yield sse.event({"type": "transcript.text.done", "text": text, **logprobs})


def formatted(
    job: speech.SpeechJob, text: str, segments: list[Segment], form: str, told: tuple[str, ...] = ("segment",)
) -> Response:
    """A transcript in one of OpenAI's formats.

    Args:
        job: of the recording.
        text: the whole transcript.
        segments: its parts.
        form: json, text, srt, vtt or verbose_json.
        told: whether the last of these tells of "segment" or "word", or both.
    """
    if form == "text":
        return PlainTextResponse(text + "\n")
    if form in ("srt", "vtt"):
        chunks = [{"timestamp": (s.start, s.end), "text": s.text} for s in segments]
        if form == "srt":
            return PlainTextResponse(to_srt(chunks))
        return PlainTextResponse(to_vtt(chunks), media_type="text/vtt")
    answer: dict[str, Any] = {"text": text}
    if job.options.logprobs:
        answer["logprobs"] = job.logprobs(segments)
    if form == "verbose_json":
        task = "translate" if job.options.translate else "transcribe"
        answer |= {"task": task, "language": job.language, "duration": job.seconds}
        if "segment" in told:
            heat = float(job.asked.options.get("temperature", 0.0))
            answer["segments"] = [segment.to_openai(i, heat) for i, segment in enumerate(segments)]
        if "word" in told:
            answer["words"] = [word for segment in segments for word in segment.words]
    return Response(json.dumps(answer, ensure_ascii=False), media_type="application/json")
