"""OCR results on disk: one small JSON file per image, found by the image's pixels and the engine that read them."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.utils.files import read_json, user_cache, write_json

FORMAT = 2  # counted up whenever the same engine and image would give another result
LARGEST = 200_000_000  # bytes of all entries; the ones longest unused go first
MOST = 10**9  # pixels a side, seconds: more is not an entry of ours


def default_cache() -> Path:
    """The folder `ocr` in `deed.utils.files.user_cache()`."""
    return user_cache() / "ocr"


def usable_cache() -> Path | None:
    """The default cache, made; None where it cannot be: for programs that work without one, too."""
    try:
        folder = cache_folder(True)
    except DataError:
        return None
    return folder if folder and os.access(folder, os.W_OK) else None


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
    """Where the result for an RGB image is, or would be.

    Args:
        folder: the cache.
        image: the picture, RGB.
        engine: name and version.
    """
    digest = hashlib.sha256(f"{FORMAT}|{engine}|{image.mode}|{image.size}|".encode())
    digest.update(image.tobytes())
    key = digest.hexdigest()
    return folder / key[:2] / f"{key[2:]}.json"  # in 256 folders, as large data sets fill them


def load_entry(path: Path) -> dict[str, Any] | None:
    """What `save_entry` wrote; None where there is nothing, or nothing that is whole."""
    try:
        entry = read_json(path)
        words = [(str(text), tuple(map(_edge, (x0, y0, x1, y1)))) for text, (x0, y0, x1, y1) in entry["words"]]
        width, height = map(int, entry["size"])
        turn, seconds = {0: 0, 90: 90, 180: 180, 270: 270}[entry["rotation"]], float(entry["seconds"])
        "".join(text for text, _ in words).encode()
    except (ValueError, TypeError, KeyError, ArithmeticError):
        return None
    if not (0 < width < MOST and 0 < height < MOST and 0 <= seconds < MOST):
        return None
    with suppress(OSError):  # of a cache that may only be read
        os.utime(path)  # used just now
    return {"words": words, "rotation": turn, "size": (width, height), "seconds": seconds}


def _edge(value: Any) -> int:
    """An edge of a box, 0..1000."""
    if not isinstance(value, int) or not 0 <= value <= 1000:
        raise ValueError(f"expected 0 to 1000, got {type(value).__name__}")
    return int(value)


def save_entry(path: Path, entry: dict[str, Any]) -> None:
    """Write the entry so that readers and other writers see a whole file or none.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, entry, indent=None, ensure_ascii=False)
        if path.name.startswith("0"):  # once in a while: looking at thousands of files takes a while, too
            shrink_cache(path.parent.parent)
    except OSError as error:
        raise _cannot_write(path.parent, error) from None


def shrink_cache(folder: Path, largest: int = LARGEST) -> None:
    """Delete the entries that were not used for longest, until the others have `largest` bytes at most.

    Args:
        folder: the cache.
        largest: bytes.
    """
    found = []
    for path in folder.glob("??/*.json"):
        with suppress(OSError):  # another process may delete, too
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= largest:
            return
        with suppress(OSError):
            path.unlink()
        total -= size


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the OCR cache {folder} cannot be written ({error.strerror or error}); "
        "give another folder, set DEED_CACHE, or read with cache=False"
    )
