"""LibreTranslate's endpoints, for its clients: `POST /translate`, `POST /detect`, `GET /languages`; their key is `api_key`."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from fastapi import APIRouter, Request

from deed.pipelines.languages import Languages
from deed.utils.optional import need

from .. import running
from ..api_errors import ApiError
from ..security import bearer
from ..served import ServedModel
from ..state import ServerState, answered, state_of
from ..wire import Detected, DetectRequest, Generation, Language, TranslateRequest, TranslateResponse
from .bodies import body_of
from .documented import LIBRE_ERRORS, two_forms

router = APIRouter(tags=["LibreTranslate"], responses=LIBRE_ERRORS)
INSTALL = 'pip install "deed-transformers[serve]"'
MOST_ALTERNATIVES = 5


@router.post("/translate", response_model=TranslateResponse, openapi_extra=two_forms(TranslateRequest, ()))
async def translate(request: Request) -> TranslateResponse:
    """Translate a text, or each of a list. With `source` "auto" the language is detected first."""
    state = state_of(request)
    wanted, _ = await body_of(request, TranslateRequest)
    _check_key(request, state, wanted.api_key)
    texts = [wanted.q] if isinstance(wanted.q, str) else wanted.q
    most = state.settings.limits.texts
    if not 1 <= len(texts) <= most:
        raise ApiError(400, f"q is a text or a list of 1 to {most} texts", "q")
    for text in texts:
        state.check_text(text, "q")
    served = await state.model(request, None, "translate")
    found: TranslateResponse = await answered(request, _translated(state, served, wanted, texts))
    return found


async def _translated(
    state: ServerState, served: ServedModel, wanted: TranslateRequest, texts: list[str]
) -> TranslateResponse:
    known = _languages(served)
    detected = None
    if wanted.source == "auto":
        detected = [(await state.read(detect_languages, text, _codes(known)))[0] for text in texts]
        sources = [found.language for found in detected]
    else:
        sources = [wanted.source] * len(texts)
    jobs = []
    try:
        for text, source in zip(texts, sources, strict=True):
            call = {"src_lang": source, "tgt_lang": wanted.target}
            job = await state.read(running.make_ready, served, "translate", text, call, Generation())
            job.submit()
            jobs.append(job)
        answers = [job.text for job in await asyncio.gather(*(job.answer() for job in jobs))]
    finally:
        for job in jobs:
            job.cancel()
    many = not isinstance(wanted.q, str)
    told: Any = detected and (detected if many else detected[0])
    return TranslateResponse(translatedText=answers if many else answers[0], detectedLanguage=told)


@router.post("/detect", response_model=list[Detected], openapi_extra=two_forms(DetectRequest, ()))
async def detect(request: Request) -> list[Detected]:
    """The language of a text, the likeliest first."""
    state = state_of(request)
    wanted, _ = await body_of(request, DetectRequest)
    _check_key(request, state, wanted.api_key)
    state.check_text(wanted.q, "q")
    served = await state.model(request, None, "translate")
    return await state.read(detect_languages, wanted.q, _codes(_languages(served)))


@router.get("/languages", response_model=list[Language])
async def languages(request: Request) -> list[Language]:
    """The languages that the model reads and writes, by its own codes."""
    state = state_of(request)
    _check_key(request, state, request.query_params.get("api_key"))
    known = _languages(await state.model(request, None, "translate"))
    codes = sorted(known.tokens)
    return [Language(code=code, name=name_of(code), targets=codes) for code in codes]


def _languages(served: ServedModel) -> Languages:
    pipe: Any = served.pipeline("translate")
    found: Languages = pipe.languages
    return found


def _codes(known: Languages) -> tuple[str, ...]:
    """Two-letter codes of the model's languages, by which the detector knows them, as the model calls them."""
    return tuple(sorted(known.tokens))


def _check_key(request: Request, state: ServerState, given: str | None) -> None:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if not state.keys.takes(given if given is not None else bearer(headers)):
        raise ApiError(403, "an API key is needed: the field api_key, or the header Authorization: Bearer KEY")


def name_of(code: str) -> str:
    """A language's name in English where it is known, else its code."""
    tags = need("langcodes", INSTALL)
    try:
        return str(tags.Language.get(code.replace("_", "-")).display_name("en"))
    except Exception:  # names come with language_data, which may not be there
        return code


def detect_languages(text: str, codes: tuple[str, ...]) -> list[Detected]:
    """The likeliest languages among the model's, best first.

    Args:
        text: to look at.
        codes: the model's; none: any.

    Raises:
        ApiError: the detector is not installed.
    """
    import math

    try:
        import py3langid
    except ImportError:
        raise ApiError(501, f"detecting languages needs py3langid: {INSTALL}") from None
    own = _two_letters(codes)
    ranked = [(own.get(label, label), score) for label, score in py3langid.rank(text) if not own or label in own]
    if not ranked:
        raise ApiError(501, "the detector knows none of this model's languages")
    top = ranked[0][1]
    weights = [math.exp(min(0.0, score - top)) for _, score in ranked]
    shares = [weight / sum(weights) for weight in weights]
    return [
        Detected(language=code, confidence=round(100 * share, 1))
        for (code, _), share in list(zip(ranked, shares, strict=True))[:MOST_ALTERNATIVES]
        if share >= 0.01
    ]


@cache
def _two_letters(codes: tuple[str, ...]) -> dict[str, str]:
    """Codes as the detector has them (ISO 639-1) to the model's own."""
    tags = need("langcodes", INSTALL)
    found: dict[str, str] = {}
    for code in codes:
        try:
            found.setdefault(str(tags.Language.get(code.replace("_", "-")).language), code)
        except tags.LanguageTagError:
            continue
    return found
