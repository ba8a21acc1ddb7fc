"""OCR results on disk: one small JSON file per image, found by the image's pixels and the engine that read them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from deed.errors import DataError

FORMAT = 1  # counted up whenever the same engine and image would give another result


def default_cache() -> Path:
    """The folder `ocr` in `$DEED_CACHE`, or in `~/.cache/deed` where that is not set."""
    return Path(os.environ.get("DEED_CACHE") or Path.home() / ".cache" / "deed").expanduser() / "ocr"


def cache_folder(cache: Path | str | bool | None) -> Path | None:
    """What the user's `cache=` means: a folder made for it, or None.

    Raises:
        DataError: the folder cannot be made.
    """
    if cache is None or cache is False:
        return None
    folder = default_cache() if cache is True else Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    return folder


def entry_path(folder: Path, image: Any, engine: str) -> Path:
    """Where the result for an RGB image is, or would be."""
    digest = hashlib.sha256(f"{FORMAT}|{engine}|{image.mode}|{image.size}|".encode())
    digest.update(image.tobytes())
    key = digest.hexdigest()
    return folder / key[:2] / f"{key[2:]}.json"  # in 256 folders, as large data sets fill them


def load_entry(path: Path) -> dict[str, Any] | None:
    """What `save_entry` wrote; None where there is nothing, or nothing that is whole."""
    try:
        entry = json.loads(path.read_bytes())
        width, height = map(int, entry["size"])
        return {
            "words": [
                (str(text), tuple(int(edge) for edge in (x0, y0, x1, y1))) for text, (x0, y0, x1, y1) in entry["words"]
            ],
            "rotation": {0: 0, 90: 90, 180: 180, 270: 270}[entry["rotation"]],
            "size": (width, height),
            "seconds": float(entry["seconds"]),
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def save_entry(path: Path, entry: dict[str, Any]) -> None:
    """Write to a temporary name and rename, so that readers and other writers see a whole file or none.

    Raises:
        DataError: the folder cannot be written.
    """
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(entry, stream, ensure_ascii=False)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        raise _cannot_write(path.parent, error) from None


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the OCR cache {folder} cannot be written ({error.strerror or error}); "
        "give another folder, set DEED_CACHE, or read with cache=False"
    )
