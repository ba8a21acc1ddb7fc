"""Debian's packages with PDFs in them: which ones, in which split, and their PDFs on disk.

A package belongs to one split, by the SHA-256 of its name, so that no document is in two of them. Names whose hash begins with
7, 8 or 9 are left alone altogether: they are for checks from outside. 6 is the test split, 5 calibration, 4 validation.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from deed.errors import DataError

SPLITS = {"4": "validation", "5": "calibration", "6": "test", "7": "", "8": "", "9": ""}  # else training
LARGEST = 60_000_000  # bytes of one PDF; a larger one is a book of pictures
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
DONE = "package.json"


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
    failed = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise DataError(f"{name!r} is no name of a Debian package")
        if not (folder / name / DONE).exists():
            problem = _fetch_one(name, folder, client)
            if problem:
                failed[name] = problem
        if tick is not None:
            tick(name)
    return failed


def _fetch_one(name: str, folder: Path, client: str) -> str:
    """Why it failed; empty where it did not."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as temporary:
        place = Path(temporary)
        place.chmod(0o755)
        got = subprocess.run([client, "download", "-q", name], cwd=place, capture_output=True, text=True)
        packages = list(place.glob("*.deb"))
        if got.returncode or not packages:
            return (got.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
        out = place / "out"
        out.mkdir()
        found = [path.name for path in _unpack(packages[0], out)]
        about = {"package": name, "file": packages[0].name, "pdfs": found}
        (out / DONE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        os.replace(out, target)
    return ""


def _unpack(package: Path, out: Path) -> Iterator[Path]:
    """The package's PDFs, written as `N-NAME.pdf`. Names and links inside are not trusted: only contents are read."""
    seen: set[str] = set()
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as stream,
        tarfile.open(fileobj=stream.stdout, mode="r|") as archive,
    ):
        for member in archive:
            name = Path(member.name).name
            if not member.isfile() or not name.endswith((".pdf", ".pdf.gz")) or member.size > LARGEST:
                continue
            file = archive.extractfile(member)
            content = _plain(file.read(), name) if file else b""
            digest = hashlib.sha256(content).hexdigest()
            if not content.startswith(b"%PDF") or digest in seen:
                continue
            seen.add(digest)
            target = out / f"{len(seen)}-{name.removesuffix('.gz')}"
            target.write_bytes(content)
            yield target


def _plain(content: bytes, name: str) -> bytes:
    """The PDF itself; empty for one that is damaged or too large unpacked."""
    if not name.endswith(".gz"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            plain = file.read(LARGEST + 1)
    except (OSError, EOFError):
        return b""
    return plain if len(plain) <= LARGEST else b""
