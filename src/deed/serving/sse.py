"""Server-sent events: what they look like, and errors within a stream that has begun."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from .api_errors import as_api_error, error_body
from .state import answered

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(data: Any, name: str | None = None) -> str:
    """One event.

    Args:
        data: a pydantic model or plain JSON values.
        name: of the event; None: a message.
    """
    values = data.model_dump() if isinstance(data, BaseModel) else data
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(values, ensure_ascii=False)}\n\n"


async def stream(request: Request, events: AsyncIterator[str]) -> StreamingResponse:
    """The events as an answer. The first is awaited here, so that what fails before it is an answer with its own status; what
    fails later ends the stream with an event `error`.

    Args:
        request: that is answered.
        events: of `event`; closed where the client leaves.
    """
    first = await answered(request, anext(events, None))  # type: ignore[arg-type]

    async def body() -> AsyncIterator[str]:
        try:
            if first is not None:
                yield first
            async for text in events:
                yield text
        except Exception as error:
            yield event(error_body(request.url.path, as_api_error(error)), "error")
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(body(), media_type="text/event-stream", headers=HEADERS)
