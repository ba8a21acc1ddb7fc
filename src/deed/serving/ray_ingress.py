"""What receives requests of `deed serve --ray`: finds the model, passes the request to a replica, and its answer back.

A replica may die (out of memory, a lost machine). Where nothing of its answer was passed on yet, the request goes to another
replica, once; else a stream of events ends with the event `error`. Answers that are no streams are passed on when they are
complete, so that they can always be tried again; where the second replica dies, too, they have status 503.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .api_errors import LIBRE
from .folders import ServedFolder, choose
from .security import Guard, Keys
from .settings import ServeSettings

log = logging.getLogger(__name__)
START, BODY = "http.response.start", "http.response.body"
LOST = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
OWN = {"/healthz": "alive", "/readyz": "ready", "/models": "", "/v1/models": ""}  # told without a replica
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TRIES = 2
DIED = "the replica that answered this request has died; send it again"
PLAIN = ("method", "path", "raw_path", "query_string", "root_path", "scheme", "http_version", "headers")


class Ingress:
    """Deployed by `deed.serving.ray`.

    Args:
        replicas: handle of the deployment that answers.
        models: that there are.
        settings: `ServeSettings.to_dict()`: keys and limits hold here, before a request is passed on.
        collector: handle of the deployment that knows all replicas' metrics.
    """

    def __init__(self, replicas: Any, models: list[ServedFolder], settings: Mapping[str, Any], collector: Any) -> None:
        self.replicas, self.models, self.collector = replicas, models, collector
        known = ServeSettings.from_dict(dict(settings))
        self.guarded = Guard(self.answer, known, Keys(known.keys), lambda: False, LIBRE)

    async def __call__(self, request: Request) -> Response:
        """What Serve calls."""
        return _Asgi(self.guarded)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application, behind the guard.

        Args:
            scope, receive, send: as ASGI has them.
        """
        body, path = await Request(scope, receive).body(), scope["path"]
        if path in OWN:
            names = [model.name for model in self.models]
            told: dict[str, Any] = {"status": OWN[path], "models": names}
            if path.endswith("/models"):
                told = {"object": "list", "data": [model.told() for model in self.models]}
            await JSONResponse(told)(scope, receive, send)
            return
        if path == "/metrics":
            page = await self.collector.text.remote()
            await PlainTextResponse(page, media_type=METRICS_TYPE)(scope, receive, send)
            return
        name = choose(self.models, path, await fields_of(scope, body))
        if name is None:
            await _told(404, "there is no model for this request; GET /models lists those there are")(
                scope, receive, send
            )
            return
        await self._pass_on(name, {key: scope[key] for key in PLAIN if key in scope}, body, send)

    async def _pass_on(self, name: str, scope: Mapping[str, Any], body: bytes, send: Any) -> None:
        """The answer of a replica, of a second one where the first dies before any of it was passed on.

        Args:
            name: of the model.
            scope: of the request, plain values.
            body: of the request.
            send: ASGI.
        """
        handle = self.replicas.options(stream=True, method_name="call", multiplexed_model_id=name)
        for attempt in range(1, TRIES + 1):
            answer = _Answer(send)
            stream = None
            try:
                stream = handle.remote(name, dict(scope), body)
                async for message in stream:
                    await answer.put(message)
                    if answer.complete:
                        return  # whatever becomes of the replica now
                return
            except BackPressureError:
                await answer.refuse(429, "too many requests wait already; try again later")
                return
            except DeploymentUnavailableError:
                await answer.refuse(503, "no replica can be started; the cluster's log says more")
                return
            except LOST as error:
                log.warning("a replica died on a request for %s (try %d): %s", name, attempt, type(error).__name__)
                if answer.begun or attempt == TRIES:
                    await answer.refuse(503, DIED)
                    return
            finally:
                if stream is not None:
                    stream.cancel()  # where the client has left; of an answer that is complete it does nothing


class _Answer:
    """An answer on its way: events are passed on as they come, anything else once it is complete.

    Attributes:
        begun: something was passed on.
        complete: all of it was.
    """

    def __init__(self, send: Any) -> None:
        self.send = send
        self.begun = self.complete = False
        self._held: list[Any] = []
        self._are_events = False

    async def put(self, message: Any) -> None:
        self._held.append(message)
        if message["type"] == START:
            kinds = [value for key, value in message["headers"] if key.lower() == b"content-type"]
            self._are_events = bool(kinds) and kinds[0].startswith(b"text/event-stream")
            return
        whole = not message.get("more_body")
        if whole or (self._are_events and message.get("body")):
            self.begun, held, self._held = True, self._held, []
            for each in held:
                await self.send(each)
        self.complete = whole

    async def refuse(self, status: int, why: str) -> None:
        """End it with an error: the status where nothing was passed on, an event where events were."""
        if self.begun:
            told = json.dumps(_error(status, why))
            await self.send({"type": BODY, "body": f"event: error\ndata: {told}\n\n".encode()})
            return
        response = _told(status, why)
        await self.send({"type": START, "status": status, "headers": response.raw_headers})
        await self.send({"type": BODY, "body": response.body})


class _Asgi(Response):
    """An ASGI application as what Serve takes for an answer."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def _error(status: int, why: str) -> dict[str, Any]:
    kind = {404: "not_found_error", 429: "rate_limit_error"}.get(status, "unavailable_error")
    return {"error": {"message": why, "type": kind, "param": None, "code": status}}


def _told(status: int, why: str) -> JSONResponse:
    return JSONResponse(_error(status, why), status, {"Retry-After": "1"} if status in (429, 503) else None)


async def fields_of(scope: Any, body: bytes) -> dict[str, Any]:
    """The fields of a request: of a JSON object, or of a form (files by their names alone); none where it is neither.

    Args:
        scope: of the request.
        body: of the request.
    """
    kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return {}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(scope, receive).form(max_files=8, max_fields=64) as form:
            return {name: value if isinstance(value, str) else True for name, value in form.items()}
    except Exception:  # a damaged form: the application says what is wrong with it
        return {}
