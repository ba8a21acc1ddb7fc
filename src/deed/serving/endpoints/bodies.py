"""Bodies that come as JSON or as a form: one way to read both."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from ..api_errors import ApiError, one_line

T = TypeVar("T", bound=BaseModel)

MOST_FILES, MOST_FIELDS = 4, 64
PART_BYTES = 1 << 20  # of a field that is no file


async def body_of(request: Request, model: type[T], files: tuple[str, ...] = ()) -> tuple[T, dict[str, bytes]]:
    """The fields of a request's body, and the files of a form by their field.

    Args:
        request: whose body is JSON, or a form.
        model: of the fields.
        files: fields that may be files.

    Raises:
        ApiError: another type of body, damaged, or fields that are not known or do not fit.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    found: dict[str, bytes] = {}
    values: dict[str, Any] = {}
    if kind == "application/json":
        values = _json(await request.body())
    elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        form = await request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=PART_BYTES)
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in files:
                    raise ApiError(
                        400, f"{name:.80} is no field for a file; files: {', '.join(files) or 'none'}", name
                    )
                found[name] = await value.read()
            elif value != "" or name in ("text", "question", "q"):
                known = values.get(name)
                values[name] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
        await form.close()
    else:
        raise ApiError(415, f"the body must be application/json or a form, not {kind or 'without a type'!r:.80}")
    try:
        return model.model_validate(values), found
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise ApiError(400, one_line(f"{param or 'the body'}: {first['msg']}"), param) from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON") from None
    if not isinstance(values, dict):
        raise ApiError(400, f"the body must be a JSON object, not {type(values).__name__}")
    return values
