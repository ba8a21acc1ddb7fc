"""What the OpenAPI description says of errors and of bodies that come in two forms."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..wire import ErrorResponse, LibreError

SAID = {
    400: "The request cannot be answered as it is; the message names the field.",
    401: "A key is needed, or this one is not known.",
    403: "A page of another origin, or another host name.",
    404: "No such model.",
    413: "Above one of the limits.",
    415: "A body of another type.",
    429: "Too many requests wait; Retry-After says when to try again.",
    500: "Something went wrong here.",
    501: "Not supported by this server.",
    503: "The models are still being loaded, or the server is about to end.",
    504: "The deadline passed.",
}


def errors(shape: type[BaseModel] = ErrorResponse, leave_out: tuple[int, ...] = ()) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: every error that it may answer with."""
    return {code: {"model": shape, "description": text} for code, text in SAID.items() if code not in leave_out}


LIBRE_ERRORS = errors(LibreError)


def two_forms(model: type[BaseModel], files: tuple[str, ...]) -> dict[str, Any]:
    """`openapi_extra` of an endpoint that takes JSON, or the same fields as a form with files.

    Args:
        model: of the JSON body.
        files: fields that are files in the form.
    """
    form = model.model_json_schema(ref_template="#/components/schemas/{model}")
    form.pop("$defs", None)
    form["properties"] = {
        name: {"type": "string", "format": "binary"} if name in files else field
        for name, field in form["properties"].items()
    }
    plain = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": plain}, "multipart/form-data": {"schema": form}},
        }
    }


def stream_or_json(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A successful answer that is JSON or, where asked, server-sent events.

    Args:
        model: of the JSON answer.
    """
    return {200: {"model": model, "content": {"text/event-stream": {"schema": {"type": "string"}}}}}
