"""`POST /ask`: a question about a picture or a page; the answer, where it stands, how sure, and how deep its tokens went."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request

from .. import asking, sse
from ..api_errors import ApiError
from ..asking import Question
from ..served import ByPage, all_finished, finished, token_list, tokens_of
from ..state import ServerState, answered, state_of
from ..ticket import Finished
from ..uploads import from_base64
from ..wire import AskRequest, AskResponse, TokenOut
from .bodies import body_of
from .documented import errors, stream_or_json, two_forms

router = APIRouter(tags=["generation"])
WANTS = {"document": ("document-qa",), "vqa": ("vqa",), "caption": ("caption",), "refer": ("refer",)}
PREVIEW_SIDE = 1400  # pixels


@router.post(
    "/ask",
    response_model=AskResponse,
    responses={**errors(), **stream_or_json(AskResponse)},
    openapi_extra=two_forms(AskRequest, ("file",)),
)
async def ask(request: Request) -> Any:
    """Ask about a picture (PNG, JPEG, WebP, TIFF …) or a page of a PDF.

    As a form with a `file`, or as JSON with the file in base64. With `stream` the answer comes as server-sent events: `page`
    (with `preview`: the page as it was read), a message for every token, and `done` with the whole answer.
    """
    state = state_of(request)
    wanted, files = await body_of(request, AskRequest, ("file",))
    data = files.get("file") or (from_base64(wanted.file, "file") if wanted.file else b"")
    if not data:
        raise ApiError(400, "a file is missing", "file")
    kinds = WANTS[wanted.task] if wanted.task else ("document-qa", "vqa", "caption")
    served = await state.model(request, wanted.model, *kinds)
    if wanted.abstain_below is not None and served.model.deed_config.answer_calibration is None:
        raise ApiError(400, f"the answers of {served.name} are not calibrated", "abstain_below")
    models = await state.by_page(request, wanted.model, served)
    if wanted.page == "all" and wanted.stream:
        raise ApiError(400, "page=all is decided when all pages are answered; leave stream out", "page")
    if wanted.page != "all" and wanted.page < 1:
        raise ApiError(400, "page counts from 1", "page")
    if wanted.stream:
        return await sse.stream(request, _events(state, models, data, wanted))
    return await answered(request, _answer(state, models, data, wanted))


def _arguments(models: ByPage, data: bytes, wanted: AskRequest) -> tuple[Any, ...]:
    return models, data, wanted, wanted.question, wanted.task


async def _answer(state: ServerState, models: ByPage, data: bytes, wanted: AskRequest) -> AskResponse:
    ocr = state.settings.ocr
    arguments = _arguments(models, data, wanted)
    if wanted.page == "all":
        questions = await state.read(asking.all_pages, *arguments, ocr)
    else:
        questions = [await state.read(asking.make_ready, *arguments, wanted.page, ocr)]
    questions = [place for question in questions for place in await state.read(asking.in_windows, question)]
    best, tokens, end = await _surest(questions)
    return await state.read(asking.respond, best, tokens, end, wanted.abstain_below)


async def _surest(questions: list[Question]) -> tuple[Question, list[TokenOut], Finished]:
    """All places asked, and the one with the surest answer."""
    tickets = []
    try:
        for question in questions:
            tickets.append(question.served.submit(question.inputs, question.asked, answer_confidence=True))
        ends = await all_finished(tickets)
    finally:
        for ticket in tickets:
            if not ticket.done:
                ticket.cancel()
    tokens = [token_list(ticket, question.detokenizer()) for question, ticket in zip(questions, tickets, strict=True)]
    best = asking.surest(questions, tokens, ends)
    return questions[best], tokens[best], ends[best]


async def _events(state: ServerState, models: ByPage, data: bytes, wanted: AskRequest) -> AsyncIterator[str]:
    arguments = _arguments(models, data, wanted)
    question = await state.read(asking.make_ready, *arguments, wanted.page, state.settings.ocr)
    places = await state.read(asking.in_windows, question)
    if len(places) > 1:  # which one is answered from is known when all have been
        yield sse.event(await state.read(_page, question, wanted.preview), "page")
        best, told, end = await _surest(places)
        for token in told:
            yield sse.event(token)
        yield sse.event(await state.read(asking.respond, best, told, end, wanted.abstain_below), "done")
        return
    ticket = question.served.submit(question.inputs, question.asked, answer_confidence=True)
    try:
        yield sse.event(await state.read(_page, question, wanted.preview), "page")
        text, tokens = question.detokenizer(), []
        async for token in tokens_of(ticket, text):
            tokens.append(token)
            yield sse.event(token)
        answer = await state.read(asking.respond, question, tokens, await finished(ticket), wanted.abstain_below)
        yield sse.event(answer, "done")
    finally:
        if not ticket.done:
            ticket.cancel()


def _page(question: Question, preview: bool) -> dict[str, Any]:
    """What is told of the page before the first token."""
    told: dict[str, Any] = {
        "model": question.served.name,
        "layers": question.served.layers,
        "page": question.page,
        "pages": question.pages,
        "rotation": question.rotation,
        "reading": question.reading_s,
    }
    if preview and question.picture is not None:
        picture = question.picture.copy()
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=80)
        told["image"] = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    return told
