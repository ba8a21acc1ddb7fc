"""Every error as an answer: one JSON shape (OpenAI's), LibreTranslate's on its endpoints, and never a traceback."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deed.errors import (
    DataError,
    DeadlinePassed,
    QueueFull,
    RequestCancelled,
    RequestTooLarge,
    SchedulerClosed,
)

log = logging.getLogger(__name__)

LIBRE = ("/translate", "/detect", "/languages")  # endpoints whose clients expect {"error": "…"}
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    499: "cancelled",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An error as the client gets it.

    Args:
        status: of HTTP.
        message: one clear sentence.
        param: the field that is wrong.
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, status: int, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after = status, message, param, retry_after


def as_api_error(error: BaseException) -> ApiError:
    """Any exception as what the client is told; unexpected ones are logged under a number, which is all that is told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, "too many requests wait already; try again later", retry_after=error.retry_after_s)
    if isinstance(error, RequestTooLarge):
        return ApiError(413, str(error))
    if isinstance(error, DeadlinePassed):
        return ApiError(504, str(error))
    if isinstance(error, RequestCancelled):
        return ApiError(499, str(error))
    if isinstance(error, SchedulerClosed):
        return ApiError(503, "the server is about to end; send the request again", retry_after=5)
    if isinstance(error, DataError | ValueError):
        return ApiError(400, one_line(str(error)))
    number = secrets.token_hex(4)
    log.error("error %s", number, exc_info=error)
    return ApiError(500, f"internal error {number}; the server's log says more")


def one_line(text: str) -> str:
    """A message without line breaks, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:399] + "…"


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """What stands in the answer.

    Args:
        path: of the request.
        error: what happened.
    """
    if path in LIBRE:
        return {"error": error.message}
    kind = KINDS.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.status}}


def error_response(path: str, error: ApiError) -> JSONResponse:
    """The answer, with `Retry-After` where there is a time, and what HTTP asks for with 401.

    Args:
        path: of the request.
        error: what happened.
    """
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(path, error), error.status, headers)


def install(app: FastAPI) -> None:
    """Have every error of an application answered in this way."""

    async def told(request: Request, error: Exception) -> JSONResponse:
        return error_response(request.url.path, as_api_error(error))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        message = f"{param or 'the body'}: {first['msg']}"
        return error_response(request.url.path, ApiError(400, one_line(message), param))

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        told = error_response(request.url.path, ApiError(error.status_code, one_line(str(error.detail))))
        told.headers.update(error.headers or {})
        return told

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
    for kind in (
        ApiError,
        DataError,
        ValueError,
        QueueFull,
        RequestCancelled,
        DeadlinePassed,
        SchedulerClosed,
        Exception,
    ):
        app.add_exception_handler(kind, told)
