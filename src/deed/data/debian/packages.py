"""Debian's packages with PDFs in them: which ones, in which split, and their PDFs on disk.

A package belongs to one split, by the SHA-256 of its name, so that no document is in two of them. Names whose hash begins with
7, 8 or 9 are left alone altogether: they are for checks from outside. 6 is the test split, 5 calibration, 4 validation.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from deed.data.deb import contents, download, unzipped
from deed.errors import DataError
from deed.utils.files import swapped_folder, write_json

SPLITS = {"4": "validation", "5": "calibration", "6": "test", "7": "", "8": "", "9": ""}  # else training
LARGEST = 60_000_000  # bytes of one PDF; a larger one is a book of pictures
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
DONE = "package.json"
TOGETHER = 40  # packages fetched by one call


def split_of(package: str) -> str:
    """The split of a package: "train", "validation", "calibration", "test", or "" for one that is left alone."""
    return SPLITS.get(hashlib.sha256(package.encode()).hexdigest()[0], "train")


def package_names() -> list[str]:
    """The packages of the recipe, those that are left alone not among them."""
    text = Path(__file__).with_name("packages.txt").read_text(encoding="utf-8")
    return [name for name in text.split() if split_of(name)]


def fetch(
    names: Iterable[str], folder: Path, tick: Callable[[str], None] | None = None, client: str = "apt-get"
) -> dict[str, str]:
    """Put the PDFs of packages into `folder/NAME/`; what is there already is not fetched again.

    Args:
        names: packages.
        folder: where to; made if need be.
        tick: called with each name when it is done.
        client: Debian's package client; `apt-get update` has been run.

    Returns:
        The packages that could not be had, each with the reason.

    Raises:
        DataError: there is no such client on this machine, or a name that is none of a package.
    """
    if shutil.which(client) is None or shutil.which("dpkg-deb") is None:
        raise DataError(f"fetching Debian's packages takes {client} and dpkg-deb, which this machine does not have")
    failed: dict[str, str] = {}
    names = list(names)
    for first in range(0, len(names), TOGETHER):
        group = names[first : first + TOGETHER]
        for name in group:
            if not NAME.fullmatch(name):
                raise DataError(f"{name!r} is no name of a Debian package")
        missing = [name for name in group if not (folder / name / DONE).exists()]
        if missing:
            failed |= _fetch_group(missing, folder, client)
        if tick is not None:
            for name in group:
                tick(name)
    return failed


def _fetch_group(names: list[str], folder: Path, client: str) -> dict[str, str]:
    """Fetch packages together and unpack them; those that could not be had, each with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching.") as temporary:
        place = Path(temporary)
        place.chmod(0o755)
        # The client reads its lists once for all of them; a name that it does not know makes it fetch none.
        download(names, place, client)
        return {name: problem for name in names if (problem := _take_one(name, place, folder, client))}


def _take_one(name: str, place: Path, folder: Path, client: str) -> str:
    """Unpack a package, fetched by itself where it is not in `place`; why it failed, empty where it did not."""
    pattern = f"{name}_*.deb"
    if not any(place.glob(pattern)) and (problem := download([name], place, client, pattern)):
        return problem
    package = next(place.glob(pattern))
    with swapped_folder(folder / name) as out:
        found = [path.name for path in _unpack(package, out)]
        write_json(out / DONE, {"package": name, "file": package.name, "pdfs": found}, indent=1)
    package.unlink()
    return ""


def _unpack(package: Path, out: Path) -> Iterator[Path]:
    """The package's PDFs, written as `N-NAME.pdf`; those that are damaged or too large unpacked are left out."""
    seen: set[str] = set()
    for path, packed in contents(package, lambda path: path.endswith((".pdf", ".pdf.gz")), LARGEST):
        name = Path(path).name
        try:
            content = unzipped(packed, name, LARGEST)
        except DataError:
            continue
        digest = hashlib.sha256(content).hexdigest()
        if not content.startswith(b"%PDF") or digest in seen:
            continue
        seen.add(digest)
        target = out / f"{len(seen)}-{name.removesuffix('.gz')}"
        target.write_bytes(content)
        yield target
