"""`POST /generate` and `/generate/stream`: a text, picture, recording or document to text, whatever the model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request

from .. import asking, running, speech, sse
from ..api_errors import ApiError
from ..kinds import SPEECH, TEXT_TASKS
from ..served import ServedModel, finished, token_list, tokens_of
from ..state import answered, state_of
from ..uploads import from_base64
from ..wire import GenerateRequest, GenerateResponse
from .bodies import body_of
from .documented import errors, two_forms

router = APIRouter(tags=["generation"])
FILES = ("image", "audio", "document")
SEEN = ("document-qa", "vqa", "caption")
DOCUMENT_TASKS = {"document-qa": "document", "vqa": "vqa", "caption": "caption", "refer": "refer"}


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses=errors(),
    openapi_extra=two_forms(GenerateRequest, FILES),
)
async def generate(request: Request) -> GenerateResponse:
    """Generate from one input: `text`, `image`, `audio` or `document`; the last three may be files of a form, or base64 in
    JSON. `text` beside a picture or document is the question."""
    wanted, data = await _read(request)
    found: GenerateResponse = await answered(request, _answer(request, wanted, data))
    return found


@router.post(
    "/generate/stream",
    responses={**errors(), 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    openapi_extra=two_forms(GenerateRequest, FILES),
)
async def generate_stream(request: Request) -> Any:
    """As `/generate`, as server-sent events: a message for every token (`id`, `text`, `depth`, `confidence`), then `done` with
    the whole answer, or `error`."""
    wanted, data = await _read(request)
    return await sse.stream(request, _events(request, wanted, data))


async def _read(request: Request) -> tuple[GenerateRequest, tuple[str, bytes]]:
    """The fields, and what was sent beside the text: its field and bytes; an empty field's name without."""
    wanted, files = await body_of(request, GenerateRequest, FILES)
    for name in FILES:
        text = getattr(wanted, name)
        if text and name not in files:
            files[name] = from_base64(text, name)
    if len(files) > 1:
        raise ApiError(400, f"one input at a time: {', '.join(FILES)}", "image")
    if any(not data for data in files.values()):
        raise ApiError(400, "the file is empty", next(iter(files)))
    if not files and wanted.text is None:
        raise ApiError(400, f"an input is missing: text, {', '.join(FILES)}", "text")
    if wanted.text is not None:
        state_of(request).check_text(wanted.text, "text")
    return wanted, next(iter(files.items()), ("", b""))


async def _job(request: Request, wanted: GenerateRequest, name: str, data: bytes) -> running.Job | asking.Question:
    """The input made ready."""
    state = state_of(request)
    if name == "audio":
        served = await state.model(request, wanted.model, SPEECH)
        return await state.read(speech.make_ready, served, data, wanted)
    if name:
        task = _named(wanted.task, tuple(DOCUMENT_TASKS))
        kinds = (task,) if task else ("document-qa",) if name == "document" else ("vqa", "document-qa", "caption")
        if wanted.text is None and task is None:
            kinds = ("caption",)
        served = await state.model(request, wanted.model, *kinds)
        asks = DOCUMENT_TASKS[task] if task else _usual(served, wanted.text)
        models = await state.by_page(request, wanted.model, served)
        arguments = (models, data, wanted, wanted.text, asks, wanted.page, state.settings.ocr)
        return await state.read(asking.make_ready, *arguments)
    task = _named(wanted.task, TEXT_TASKS) or ("translate" if wanted.target else "text2text")
    served = await state.model(request, wanted.model, task)
    call = {"src_lang": wanted.source, "tgt_lang": wanted.target} if task == "translate" else {}
    return await state.read(
        running.make_ready, served, task, wanted.text, {k: v for k, v in call.items() if v}, wanted
    )


def _named(task: str | None, known: tuple[str, ...]) -> str | None:
    if task is not None and task not in known:
        raise ApiError(400, f"task is one of {', '.join(known)} for this input, got {task!r:.60}", "task")
    return task


def _usual(served: ServedModel, text: str | None) -> str | None:
    """What is asked where the request does not say: a caption without a question."""
    possible = asking.ask_tasks(served)
    return "caption" if text is None and "caption" in possible else None


async def _answer(request: Request, wanted: GenerateRequest, file: tuple[str, bytes]) -> GenerateResponse:
    job = await _job(request, wanted, *file)
    if isinstance(job, running.Job):
        job.submit()
        return await job.answer()
    ticket = job.served.submit(job.inputs, job.asked)
    end = await finished(ticket)
    found = asking.respond(job, token_list(ticket, job.detokenizer()), end, None)
    return GenerateResponse.model_validate(found.model_dump(include=set(GenerateResponse.model_fields)))


async def _events(request: Request, wanted: GenerateRequest, file: tuple[str, bytes]) -> AsyncIterator[str]:
    job = await _job(request, wanted, *file)
    if isinstance(job, running.Job):
        job.submit()
        async for part in job.stream():
            yield sse.event(part, "done" if isinstance(part, GenerateResponse) else None)
        return
    ticket = job.served.submit(job.inputs, job.asked)
    text, tokens = job.detokenizer(), []
    async for token in tokens_of(ticket, text):
        tokens.append(token)
        yield sse.event(token)
    found = asking.respond(job, tokens, await finished(ticket), None)
    yield sse.event(found.model_dump(include=set(GenerateResponse.model_fields)), "done")
