"""The page at `/`, the description of the endpoints at `/docs`, and the files that both are made of, out of the package."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from ..api_errors import ApiError

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parents[1] / "page"
SAMPLES = Path(__file__).parents[2] / "data" / "samples"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".pdf": "application/pdf"}
FILES = {path.name: path for folder in (FOLDER, SAMPLES) for path in folder.iterdir() if path.suffix in KINDS}


@router.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", media_type="text/html")


@router.get("/docs")
def docs() -> FileResponse:
    """The endpoints, made from `/openapi.json` in the browser."""
    return FileResponse(FOLDER / "docs.html", media_type="text/html")


@router.get("/page/{name}")
def asset(name: str) -> FileResponse:
    """A style, a script, or a sample; only names that are known are looked up."""
    if name not in FILES:
        raise ApiError(404, "no such file")
    return FileResponse(FILES[name], media_type=KINDS[FILES[name].suffix])


@router.get("/favicon.ico")
def icon() -> FileResponse:
    """The icon."""
    return FileResponse(FILES["icon.svg"], media_type=KINDS[".svg"])
