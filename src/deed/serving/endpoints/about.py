"""What tells of the server: models, health, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from ..state import state_of
from ..wire import Health, ModelList
from .documented import errors

router = APIRouter(tags=["server"])


@router.get("/models", response_model=ModelList, responses=errors(leave_out=(404, 413, 415, 429, 501, 504)))
@router.get("/v1/models", response_model=ModelList, responses=errors(leave_out=(404, 413, 415, 429, 501, 504)))
def models(request: Request) -> ModelList:
    """The models that are served, the usual one of each kind first."""
    return ModelList(data=state_of(request).models.infos())


@router.get("/healthz", response_model=Health)
def alive(request: Request) -> Health:
    """Whether the process answers at all."""
    return Health(status="alive")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
def ready(request: Request) -> JSONResponse:
    """Whether requests are answered: 503 while models are loaded, and once the server was told to end."""
    state = state_of(request)
    status = "ending" if state.draining else "ready" if state.models.ready else "loading"
    body = Health(status=status, models=state.models.names, loaded=[served.name for served in state.models.all()])
    return JSONResponse(body.model_dump(), 200 if state.ready else 503)


@router.get("/metrics", response_class=PlainTextResponse, responses=errors(leave_out=(404, 413, 415, 429, 501, 504)))
def metrics(request: Request) -> PlainTextResponse:
    """Counters, gauges and histograms in Prometheus' form."""
    return PlainTextResponse(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
